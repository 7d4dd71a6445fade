"""A search over a method's numbers by Optuna: its trials are kept in a file, so that a later command continues it."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trials import Objective, tuning_folder

from speechforget.cli.plan import plan
from speechforget.errors import Diverged, UserError
from speechforget.progress import bar
from speechforget.store import key_of, locked

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

VERSION = 3  # of the search: raise it whenever the same inputs give other trials
WIDTH = 30.0  # factor between a learning rate's default and the ends of its range, without `tune`
DIGITS = 3  # of a number that is tried


def ranges_of(method: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Give the numbers to search: name -> (low, high), from the method's `tune`, else around its learning rate.

    Raises UserError without numbers to search, and for a range that is invalid or excludes the default.
    """
    named = method.get("tune")
    if named is None:
        if not _is_number(method.get("learning_rate")):
            raise UserError(
                f"The method {method['name']} has no learning rate: "
                "name one of its numbers and a range by +method.tune.NUMBER=[LOW,HIGH]."
            )
        named = {"learning_rate": [method["learning_rate"] / WIDTH, method["learning_rate"] * WIDTH]}
    for name, ends in named.items():
        if not _is_number(method.get(name)):
            raise UserError(f"method.tune names '{name}', but the method {method['name']} has no number '{name}'.")
        if not (isinstance(ends, Sequence) and len(ends) == 2 and all(map(_is_number, ends)) and 0 < ends[0] < ends[1]):
            raise UserError(
                f"method.tune.{name} must be [low, high] with 0 < low < high (the scale is logarithmic), not {ends}."
            )
        if not ends[0] <= method[name] <= ends[1]:
            raise UserError(
                f"method.{name}={method[name]:g} is outside the range of its search, {ends}: "
                f"set method.tune.{name}=[LOW,HIGH]."
            )
    return {name: (ends[0], ends[1]) for name, ends in named.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Search:
    """Run trials of a method's numbers and keep them in a file. default: the numbers of the first trial."""

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
        """Hash what trials depend on: the keys of the models that the default numbers make, and the ranges."""
        made = [
            [planned.key for planned in plan(config) if planned.stage in ("oracle", "unlearned")]
            for config in self.objective.configs
        ]
        return key_of(
            "tuning",
            {
                "version": VERSION,
                "made": made,
                "objective": self.objective.configs[0]["evaluation"]["objective"],
                "ranges": self.ranges,
                "optuna": importlib.metadata.version("optuna"),
            },
        )

    def run(self, trials: int) -> list[FrozenTrial]:
        """Run trials until `trials` of them are finished, and give all finished ones; the first is the default."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with locked(self.path.with_suffix("")):  # Optuna keeps its own lock file beside the journal
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
        """Run one trial. Its draws depend only on its number, so an interrupted search continues unchanged."""
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
        """Give the objective, or infinity and the reason where these numbers make the method break down.

        Raises UserError where the first trial is refused: then the command is wrong, not the numbers.
        """
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
