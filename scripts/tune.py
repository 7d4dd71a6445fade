"""Search a method's numbers, and write the best ones where run.py can use them.

    python scripts/tune.py method=scrub task=class dataset=espeak                           20 trials
    python run.py method=scrub task=class dataset=espeak tuned=my_espeak_word               use what they found
    python scripts/tune.py method=scrub task=class dataset=espeak --trials 40 --overwrite   20 more
    python scripts/tune.py method=scrub task=class dataset=espeak --seeds 0,1 --name two    the mean over two seeds
    python scripts/tune.py method=scrub task=class dataset=espeak plan=true                 print what would be built

One file holds the numbers of a corpus, label and model: my_conf/tuned/my_<dataset>_<label>.yaml. Each search adds the
entry of its task and method; several searches may run at once. --overwrite replaces an entry that exists. A search that
finds nothing better than the default is listed under `not_better`. run.py finds the folder my_conf in the current
folder; --conf names another one.

The overrides are those of run.py. The method's yaml names under `tune` what is searched: {number: [low, high]}, on a
logarithmic scale. Without `tune`, it is the learning rate, from a thirtieth of its default to thirty times that. The
objective is what run.py returns: the mean absolute accuracy gap to the oracle on forget and validation, never test.
With `evaluation=full evaluation.objective=told_from_oracles` it also counts how surely the model is told from oracles,
and with `evaluation.objective=exposure_forget` what it still knows of the request, too.
The first trial is the default. Numbers are rounded to three digits before a trial, so the file holds what was tried.
Numbers that make the method break down are a failed trial, and the search continues.

Originals and oracles are those of the output folder. Unlearned models are removed after scoring. Trials are kept in
<output>/tuning: the same command continues an interrupted search, and a larger --trials continues a finished one with
exactly the trials of an uninterrupted search.
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
from search import DIGITS, Search, ranges_of
from trials import Objective
from tuned_file import add, check_room

import speechforget.cli.main
from speechforget.cli.plan import describe, plan
from speechforget.config.inputs import decisive
from speechforget.config.oracle import has_oracle, why_no_oracle
from speechforget.config.tuned import NOT_BETTER, asked_for, check_tuned
from speechforget.errors import UserError
from speechforget.store import provenance

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SHIPPED = ROOT / "conf"
MINE = Path("my_conf")  # run.py finds it in the current folder


def name_of(found_for: Mapping[str, str]) -> str:
    """Name the file of a corpus and label: <dataset>_<label>."""
    return f"{found_for['dataset']}_{found_for['label']}"


def numbers_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """Give the method's config without its name and what may be asked of it."""
    return {name: value for name, value in decisive("method", method).items() if name != "_target_"}


def entry_of(
    trials: Sequence[FrozenTrial], method: Mapping[str, Any], command: str, seeds: Sequence[int]
) -> dict[str, Any]:
    """Describe a search for the file of `tuned`: its best trial's numbers, both objectives and how to repeat it.

    Holds `beside`, the method's other numbers during the search, only where the best trial beat the default.
    """
    best, default = best_of(trials), trials[0]
    versions = {**provenance()["versions"], "optuna": importlib.metadata.version("optuna")}
    failures = sum(trial.user_attrs["failure"] is not None for trial in trials)
    tried = best.user_attrs["tried"]
    entry = {
        "numbers": dict(tried),
        "objective": {"best": round(best.value, 4), "default": _objective(default)},
        "search": f"{len(trials)} trials by TPE, {'seed' if len(seeds) == 1 else 'mean over seeds'} "
        f"{', '.join(map(str, seeds))}{f'; {failures} of them failed' if failures else ''}",
        "command": command,
        "code": f"commit {provenance()['commit']}; "
        + ", ".join(f"{name} {versions[name]}" for name in ("python", "speechforget", "torch", "optuna")),
    }
    if best.number != default.number:
        entry["beside"] = {name: value for name, value in numbers_of(method).items() if name not in tried}
    return entry


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """Give the trial with the lowest objective; of equal ones the first, so a tie is the default's."""
    return min(trials, key=lambda trial: trial.value)


def _numbers(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {value:.{DIGITS}g}" for name, value in trial.user_attrs["tried"].items())


def _objective(trial: FrozenTrial) -> float | str:
    return "failed" if math.isinf(trial.value) else round(trial.value, 4)


def path_of(conf: Path, name: str | None, found_for: Mapping[str, str]) -> Path:
    """Choose the file that receives the entry. Raises UserError for a name that Hydra would find elsewhere first."""
    shipped = conf.resolve() == SHIPPED
    path = conf / "tuned" / f"{name or ('' if shipped else 'my_') + name_of(found_for)}.yaml"
    if not shipped and (SHIPPED / "tuned" / path.name).exists():
        raise UserError(f"tuned={path.stem} comes with speechforget: give yours another name with --name.")
    return path


def tune(
    overrides: Sequence[str],
    trials: int,
    seeds: Sequence[int],
    conf: Path = MINE,
    name: str | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Search, add an entry to a file in <conf>/tuned, print what was found, and give the file's path.

    With plan=true only print what would be made, and give None. Raises UserError for a run that cannot be searched.
    """
    try:
        importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError:
        raise UserError('The search needs optuna: pip install -e ".[tune]".') from None
    if trials < 1:
        raise UserError(f"--trials must be at least 1, not {trials}.")
    words = [*overrides, "evaluation.pairs=0"]  # a search needs no audit
    configs = [config_of([*words, *([f"seed={seed}"] if seed is not None else [])]) for seed in (seeds or [None])]
    check_tuned(configs[0])
    if not has_oracle(configs[0]):
        raise UserError(f"A search needs an oracle to compare with. {why_no_oracle(configs[0])}")
    ranges_of(configs[0]["method"])
    found_for = asked_for(configs[0])
    path = path_of(conf, name, found_for)
    check_room(path, found_for, overwrite)
    if configs[0]["plan"]:
        print(describe([plan(config) for config in configs]))
        print(
            f"{trials} trials would each unlearn and score anew, for each seed, keep none of it, and write to {path}."
        )
        return None
    objective = Objective(configs)
    objective.prepare()
    found_for["corpus"] = objective.bases[0].data.audio.fingerprint
    check_room(path, found_for, overwrite)
    found = Search(objective, "_".join(found_for[group] for group in ("task", "dataset", "label", "method"))).run(
        trials
    )
    if all(math.isinf(trial.value) for trial in found):
        reason = found[0].user_attrs["failure"] or "the model was destroyed"
        raise UserError(f"All of the {len(found)} trials failed. The first: {reason}")
    command = ["python scripts/tune.py", told(overrides), f"--trials {len(found)}"]
    command += [f"--seeds {','.join(map(str, seeds))}"] if seeds else []
    used = [int(config["seed"]) for config in configs]
    entry = entry_of(found, configs[0]["method"], " ".join(command), used)
    add(path, found_for, entry, "beside" in entry, overwrite)
    found_by_itself = conf.resolve() in (SHIPPED, MINE.resolve())
    not_shown = {*PLACES, "trainer.threads", "tuned"}
    shown = [word for word in overrides if word.partition("=")[0] not in not_shown]
    _print(found, path, [*([] if found_by_itself else ["--config-dir", str(conf)]), *shown])
    return path


def _print(found: Sequence[FrozenTrial], path: Path, overrides: Sequence[str]) -> None:
    best, default = best_of(found), found[0]
    for trial in sorted(found, key=lambda trial: trial.value)[:5]:
        value = "failed" if trial.user_attrs["failure"] else f"{trial.value:.4f}"
        print(f"  objective {value}  {_numbers(trial)}{'  (default)' if trial.number == default.number else ''}")
    if best.number == default.number:
        print(f"None of {len(found)} trials is better than the default.\nListed as {NOT_BETTER} in {path}")
        return
    gives = "fails" if math.isinf(default.value) else f"gives {default.value:.4f}"
    print(f"Best of {len(found)} trials: {best.value:.4f}; the default {gives}.")
    print(f"Written: {path}\nUse it: python run.py {shlex.join(overrides)} tuned={path.stem}")


def seeds_of(text: str) -> list[int]:
    """Parse 0,1,2."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides", nargs="+", metavar="name=value", help="overrides as for run.py: method=..., task=..., dataset=..."
    )
    parser.add_argument(
        "--trials", type=int, default=20, help="total number, trials of earlier searches included (default: 20)"
    )
    parser.add_argument(
        "--seeds",
        type=seeds_of,
        default=[],
        help="0,1,2: the objective is the mean over runs with these seeds (default: the run's)",
    )
    parser.add_argument(
        "--conf", type=Path, default=MINE, help=f"the entry goes to a file in its folder tuned (default: {MINE})"
    )
    parser.add_argument("--name", help="of the file (default: my_<dataset>_<label>)")
    parser.add_argument("--overwrite", action="store_true", help="replace the entry where it exists")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tune(arguments.overrides, arguments.trials, arguments.seeds, arguments.conf, arguments.name, arguments.overwrite)


if __name__ == "__main__":
    speechforget.cli.main.guard(main)
