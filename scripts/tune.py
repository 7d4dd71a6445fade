"""Finds a method's numbers by search, and writes them where run.py can take them from.

    python scripts/tune.py method=scrub task=class dataset=espeak                           20 trials; writes my_conf/tuned/my_class_espeak_scrub.yaml
    python run.py method=scrub task=class dataset=espeak tuned=my_class_espeak_scrub        uses it
    python scripts/tune.py method=scrub task=class dataset=espeak --trials 40 --overwrite   20 more
    python scripts/tune.py method=scrub task=class dataset=espeak --seeds 0,1 --name two    another search, for the mean over two seeds
    python scripts/tune.py method=scrub task=class dataset=espeak plan=true                 what exists and what would be built

run.py finds the folder my_conf by itself where the command is given; --conf names another one. A file that is there is only replaced by --overwrite.

The words are those of run.py. What is searched is what the method's yaml names under `tune`: {number: [low, high]}, on a logarithmic scale; without
that, the learning rate, from a thirtieth of its default to thirty times that. What is minimised is what run.py returns: the mean absolute accuracy
gap to the oracle on forget and on validation, never test. The first trial is the default. Numbers are rounded to three digits before they are tried,
so what is written is what was tried. Numbers with which the method breaks down are a failed trial, and the search goes on.

Originals and oracles are those of the output folder. Unlearned models are removed once they are measured; trials are kept in <output>/tuning, so the
same command goes on where it was interrupted, and a larger --trials goes on from fewer, exactly as if it had never stopped.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composed import PLACES, ROOT, config_of, told
from trials import Objective, tuning_folder

import speechforget.cli.main
from speechforget.cli.plan import describe, plan
from speechforget.config.inputs import decisive
from speechforget.config.oracle import has_oracle, why_no_oracle
from speechforget.config.tuned import asked_for, check_tuned
from speechforget.errors import Diverged, UserError
from speechforget.progress import bar
from speechforget.store import key_of, locked, provenance, write_text

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

VERSION = 2  # of how a search goes on: raise it whenever the same inputs give other trials
WIDTH = 30.0  # how far from a learning rate's default the search goes where a yaml does not say
DIGITS = 3  # of a number that is tried
SHIPPED = ROOT / "conf"
MINE = Path("my_conf")  # found by run.py in the current folder


def ranges_of(method: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """What to search: name -> (low, high), from the method's `tune`, or about its learning rate.

    Raises UserError where there is nothing to search, and for a range that is none or leaves out the number's own value.
    """
    named = method.get("tune")
    if named is None:
        if not _is_number(method.get("learning_rate")):
            raise UserError(
                f"The method {method['name']} has no learning rate: name a number of it and its range, +method.tune.NUMBER=[LOW,HIGH]."
            )
        named = {"learning_rate": [method["learning_rate"] / WIDTH, method["learning_rate"] * WIDTH]}
    for name, ends in named.items():
        if not _is_number(method.get(name)):
            raise UserError(f"method.tune names '{name}', which is no number of the method {method['name']}.")
        if not (isinstance(ends, Sequence) and len(ends) == 2 and all(map(_is_number, ends)) and 0 < ends[0] < ends[1]):
            raise UserError(
                f"method.tune.{name} must be [low, high] with 0 < low < high, as the scale is logarithmic, not {ends}."
            )
        if not ends[0] <= method[name] <= ends[1]:
            raise UserError(
                f"method.{name}={method[name]:g} lies outside the range of its search, {ends}: set method.tune.{name}=[LOW,HIGH]."
            )
    return {name: (ends[0], ends[1]) for name, ends in named.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Search:
    """Trials of a method's numbers, kept in a file. default: the first one."""

    def __init__(self, objective: Objective, name: str) -> None:
        config = objective.configs[0]
        self.objective = objective
        self.ranges = ranges_of(config["method"])
        self.default = {key: config["method"][key] for key in self.ranges}
        self.distributions: dict[str, BaseDistribution] = {key: self._distribution(key) for key in self.ranges}
        self.path = tuning_folder(config) / f"{name}-{self._identity()[:12]}.journal"

    def _distribution(self, key: str) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        low, high = self.ranges[key]
        if all(isinstance(number, int) for number in (low, high, self.default[key])):
            return IntDistribution(int(low), int(high), log=True)
        return FloatDistribution(low, high, log=True)

    def _identity(self) -> str:
        """Of the search: everything that a trial depends on, by the keys of what the default makes."""
        made = [
            [planned.key for planned in plan(config) if planned.stage in ("oracle", "unlearned")]
            for config in self.objective.configs
        ]
        return key_of(
            "tuning",
            {"version": VERSION, "made": made, "ranges": self.ranges, "optuna": importlib.metadata.version("optuna")},
        )

    def run(self, trials: int) -> list[FrozenTrial]:
        """All finished trials, at least `trials` of them, made or found; the first is the default."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with locked(self.path.with_suffix("")):  # Optuna has a lock of its own beside its file
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.path))), study_name="tuning", load_if_exists=True
            )
            for cut_off in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
                study.tell(cut_off.number, state=optuna.trial.TrialState.FAIL)
            done = len(self._finished(study))
            with bar(total=trials, description="trials", unit="trial") as progress:
                progress.update(min(done, trials))
                for number in range(done, trials):
                    self._step(study, number)
                    progress.update(1)
            return self._finished(study)

    def _step(self, study: Study, number: int) -> None:
        """One more trial. Its draws depend on its number alone, so an interrupted search goes on as it would have."""
        import optuna

        if not number:
            value, failure = self._valued(self.default, first=True)
            attributes = {"tried": self.default, "failure": failure}
            study.add_trial(
                optuna.create_trial(
                    params=self.default, distributions=self.distributions, value=value, user_attrs=attributes
                )
            )
            return
        study.sampler = optuna.samplers.TPESampler(seed=number)
        trial = study.ask(self.distributions)
        tried = {
            key: value if isinstance(value, int) else self._rounded(key, value) for key, value in trial.params.items()
        }
        trial.set_user_attr("tried", tried)
        value, failure = self._valued(tried)
        trial.set_user_attr("failure", failure)
        study.tell(trial, value)

    def _valued(self, tried: Mapping[str, float], first: bool = False) -> tuple[float, str | None]:
        """The objective; infinite, with the reason, where these numbers make a method break down. What the first trial refuses is a mistake."""
        import torch

        try:
            return self.objective(tried), None
        except UserError as error:
            if first and not isinstance(error, Diverged):
                raise
            failure = str(error)
        except (ArithmeticError, ValueError, torch.linalg.LinAlgError) as error:
            failure = f"{type(error).__name__}: {error}"
        logger.warning("With %s the method broke down (%s).", tried, failure)
        return math.inf, failure

    def _rounded(self, key: str, value: float) -> float:
        low, high = self.ranges[key]
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    @staticmethod
    def _finished(study: Study) -> list[FrozenTrial]:
        import optuna

        return study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))


def name_of(found_for: Mapping[str, str]) -> str:
    """<task>_<dataset>_<method>, with the label where that is not the word."""
    corpus = found_for["dataset"] + ("" if found_for["label"] == "word" else f"-{found_for['label']}")
    return f"{found_for['task']}_{corpus}_{found_for['method']}"


def numbers_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The method's config without what says which method it is and what may be asked of it."""
    return {name: value for name, value in decisive("method", method).items() if name != "_target_"}


def written(
    trials: Sequence[FrozenTrial], config: Mapping[str, Any], fingerprint: str, command: str, seeds: Sequence[int]
) -> str:
    """The yaml: the best trial's numbers, what they are for and all of the method's as they were, under a comment that says how they were found."""
    from omegaconf import OmegaConf

    best, default = min(trials, key=lambda trial: trial.value), trials[0]
    about = provenance()
    versions = {**about["versions"], "optuna": importlib.metadata.version("optuna")}
    better = (
        f"The default, {_numbers(default)}, {_gives(default)}."
        if best.number != default.number
        else "That is the default."
    )
    failures = [trial for trial in trials if trial.user_attrs["failure"]]
    failed = f"; {len(failures)} of them failed" if failures else ""
    lines = [
        "# @package _global_",
        f"# {command}",
        f"# {len(trials)} trials by TPE, {'seed' if len(seeds) == 1 else 'mean over seeds'} {', '.join(map(str, seeds))}{failed}.",
        f"# Best objective (mean absolute accuracy gap to the oracle on forget and validation): {best.value:.4f}, with {_numbers(best)}. {better}",
        f"# commit {about['commit']}; "
        + ", ".join(f"{name} {versions[name]}" for name in ("python", "speechforget", "torch", "optuna")),
    ]
    found_for = {**asked_for(config), "corpus": fingerprint}
    tried = best.user_attrs["tried"]
    found = {"method": tried, "tuned_to": tried, "tuned_for": found_for, "tuned_from": numbers_of(config["method"])}
    values = OmegaConf.to_yaml(OmegaConf.create(found))
    return "\n".join(lines) + "\n" + values


def _numbers(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {value:.{DIGITS}g}" for name, value in trial.user_attrs["tried"].items())


def _gives(trial: FrozenTrial) -> str:
    return "fails" if math.isinf(trial.value) else f"gives {trial.value:.4f}"


def path_of(conf: Path, name: str | None, found_for: Mapping[str, str], overwrite: bool) -> Path:
    """Where the yaml goes. Raises UserError for a file that nobody asked to replace, and for one that `tuned=` would not find."""
    shipped = conf.resolve() == SHIPPED
    name = name or f"{'' if shipped else 'my_'}{name_of(found_for)}"
    path = conf / "tuned" / f"{name}.yaml"
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: add --overwrite to replace it, or name another file with --name.")
    if not shipped and (SHIPPED / "tuned" / path.name).exists():
        raise UserError(f"tuned={name} is one that comes with speechforget: name yours otherwise with --name.")
    return path


def tune(
    overrides: Sequence[str],
    trials: int,
    seeds: Sequence[int],
    conf: Path = MINE,
    name: str | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Searches, writes a yaml below <conf>/tuned and says what it found; gives its path. With plan=true only says what would be made.

    Raises UserError for what cannot be searched.
    """
    try:
        importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError:
        raise UserError('The search needs optuna: pip install -e ".[tune]".') from None
    if trials < 1:
        raise UserError(f"--trials must be at least 1, not {trials}.")
    configs = [config_of([*overrides, *([f"seed={seed}"] if seed is not None else [])]) for seed in (seeds or [None])]
    check_tuned(configs[0])
    if not has_oracle(configs[0]):
        raise UserError(f"A search needs an oracle to come near to. {why_no_oracle(configs[0])}")
    ranges_of(configs[0]["method"])
    path = path_of(conf, name, asked_for(configs[0]), overwrite)
    if configs[0]["plan"]:
        print(describe([plan(config) for config in configs]))
        print(f"{trials} trials would each unlearn and score anew, for each seed, keep none of it, and write {path}.")
        return None
    objective = Objective(configs)
    objective.prepare()
    search = Search(objective, name_of(asked_for(configs[0])))
    found = search.run(trials)
    if all(math.isinf(trial.value) for trial in found):
        raise UserError(
            f"None of {len(found)} trials came to an end. The first: {found[0].user_attrs['failure'] or 'the model was destroyed'}"
        )
    used = [int(config["seed"]) for config in configs]
    words = [
        "python scripts/tune.py",
        told(overrides),
        f"--trials {len(found)}",
        *([f"--seeds {','.join(map(str, seeds))}"] if seeds else []),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, written(found, configs[0], objective.bases[0].data.audio.fingerprint, " ".join(words), used))
    found_by_itself = conf.resolve() in (SHIPPED, MINE.resolve())
    _say(
        found,
        path,
        [
            *([] if found_by_itself else ["--config-dir", str(conf)]),
            *(word for word in overrides if word.partition("=")[0] not in {*PLACES, "trainer.threads"}),
        ],
    )
    return path


def _say(found: Sequence[FrozenTrial], path: Path, overrides: Sequence[str]) -> None:
    best, default = min(found, key=lambda trial: trial.value), found[0]
    for trial in sorted(found, key=lambda trial: trial.value)[:5]:
        value = "failed" if trial.user_attrs["failure"] else f"{trial.value:.4f}"
        print(f"  objective {value}  {_numbers(trial)}{'  (default)' if trial.number == default.number else ''}")
    if best.number == default.number:
        print(f"None of {len(found)} trials is better than the default.")
    else:
        print(f"Best of {len(found)} trials: {best.value:.4f}, where the default {_gives(default)}.")
    print(f"Written: {path}\nUse it: python run.py {shlex.join(overrides)} tuned={path.stem}")


def seeds_of(text: str) -> list[int]:
    """0,1,2 as numbers."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="+", metavar="name=value", help="as for run.py: method=..., task=..., dataset=..."
    )
    parser.add_argument(
        "--trials", type=int, default=20, help="in all, those of earlier searches counted (default: 20)"
    )
    parser.add_argument(
        "--seeds",
        type=seeds_of,
        default=[],
        help="0,1,2: the objective is the mean over runs with these seeds (default: the run's)",
    )
    parser.add_argument(
        "--conf", type=Path, default=MINE, help=f"the folder whose tuned/ receives the yaml (default: {MINE})"
    )
    parser.add_argument("--name", help="of the yaml (default: my_<task>_<dataset>_<method>)")
    parser.add_argument("--overwrite", action="store_true", help="replace the yaml where it exists")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tune(arguments.overrides, arguments.trials, arguments.seeds, arguments.conf, arguments.name, arguments.overwrite)


if __name__ == "__main__":
    speechforget.cli.main.guard(main)
