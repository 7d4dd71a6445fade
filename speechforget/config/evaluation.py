"""Check what a run evaluates: metrics, attacks on models, numbers of oracles and of complementary pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speechforget.config.inputs import metrics_in
from speechforget.config.oracle import has_oracle
from speechforget.config.ranges import choice, whole
from speechforget.config.steps import is_continued, step_configs
from speechforget.data.groups import AUTO
from speechforget.data.requests.pool import POOL, Pool, parts
from speechforget.data.requests.select import Request
from speechforget.errors import UserError

FIRST_POOL_SEED = 1000  # oracles of the pool share no seed with the originals of pairs, so no first weights
ZRF = "zrf"  # the metric that compares with models of random weights
NEEDED = {"told_from_oracles": ("told_from_oracles",), "exposure_forget": ("told_from_oracles", "exposure_forget")}
OBJECTIVES = ("accuracy", *NEEDED, "character_error_rate")
FEWEST_FOR_A_BAND = 3  # oracles
FEWEST = 4  # pairs, and oracles beside pairs: fewer give no interval


class Training(NamedTuple):
    """Say how a model is made.

    stage: of the store. part: of the pool of an audit; None for the request of the run. epoch: after which a kept epoch
    ends; None for a whole training.
    """

    stage: str
    seed: int
    part: str | None = None
    epoch: int | None = None

    @property
    def whole(self) -> bool:
        """Return whether it is the original of the run, or a kept epoch of it, which knows all training utterances."""
        return self.stage in ("original", "kept_epoch") and self.part is None


def has_pairs(config: Mapping[str, Any]) -> bool:
    """Return whether a run audits its method by pairs. Whole classes cannot be exchanged, so they have none."""
    return bool(config["evaluation"]["pairs"]) and config["task"]["kind"] == "sample"


def needs_untrained(config: Mapping[str, Any]) -> bool:
    """Return whether a metric compares with models of random weights."""
    return any(path.endswith(f".{ZRF}") for path in metrics_in(config["evaluation"]))


def trainings(config: Mapping[str, Any]) -> dict[str, Training]:
    """Name all models that a run trains.

    The oracles are those of the run's seed and of the smallest other seeds, so runs of a sweep share them. Models of
    pairs have seeds of their own, so that all runs share them.
    """
    seed, oracles, pairs = int(config["seed"]), config["evaluation"]["oracles"], config["evaluation"]["pairs"]
    found = {"original": Training("original", seed)}
    if has_oracle(config):
        found["oracle"] = Training("oracle", seed)
        others = [other for other in range(oracles) if other != seed][: oracles - 1]
        found |= {f"oracle-seed{other}": Training("oracle", other) for other in others}
    if has_pairs(config):
        found |= {f"original-pair{part}": Training("original", int(part[:-1]), part) for part in parts(pairs)}
        found |= {f"oracle-pool{index}": Training("oracle", FIRST_POOL_SEED + index, POOL) for index in range(oracles)}
    return found


def buildable(config: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Map each value of the key `only` to the request of a sequence, from 0, and the name of its model there."""
    runs = step_configs(config)
    if len(runs) == 1:
        return {name: (0, name) for name in trainings(config)}
    found = {"original": (0, "original")}
    for number, run in enumerate(runs):
        found |= {f"{name}-step{number + 1}": (number, name) for name in oracle_names(run)}
    return found


def oracle_names(config: Mapping[str, Any]) -> list[str]:
    """Name the oracles of the request; the first has the seed of the run."""
    return [name for name, training in trainings(config).items() if training.stage == "oracle" and not training.part]


def request_of(training: Training, request: Request, pool: Pool | None) -> Request | None:
    """Return what a model is trained without, or forgets; None for the original of the run.

    An oracle is trained without earlier requests, too, and a method may unlearn them again.
    """
    if training.part is None or pool is None:
        if training.whole:
            return None
        return {"oracle": request.of_oracle, "unlearned": request.of_method}.get(training.stage, request)
    return (pool.forgetting if training.stage == "unlearned" else pool.trained_without)(training.part)


def check_evaluation(config: Mapping[str, Any]) -> None:
    """Raise UserError for numbers of oracles and pairs that give no result."""
    evaluation = config["evaluation"]
    for name, low in (("oracles", 1), ("pairs", 0)):
        whole(evaluation, name, low, "evaluation.")
    oracles, pairs = evaluation["oracles"], evaluation["pairs"]
    for name in ("metrics", "more_metrics", "attacks"):
        if not isinstance(evaluation[name], list | tuple):
            raise UserError(f"evaluation.{name} must be a list, not {evaluation[name]!r}.")
    groups = evaluation.get("groups", ())
    if groups != AUTO and not isinstance(groups, list | tuple):
        raise UserError(f"evaluation.groups must be {AUTO} or a list of columns, not {groups!r}.")
    if not evaluation["metrics"]:
        raise UserError("evaluation.metrics is empty: list at least one metric, or choose evaluation=quick.")
    _check_objective(evaluation)
    if not has_oracle(config) and (oracles > 1 or pairs):
        raise UserError(
            f"evaluation={evaluation['name']} compares with several oracles, and this run has none: "
            "set oracle=train, or choose evaluation=quick."
        )
    if pairs and (pairs < FEWEST or oracles < FEWEST):
        raise UserError(
            f"An audit needs at least {FEWEST} pairs and {FEWEST} oracles, not {pairs} and {oracles}: "
            "raise evaluation.pairs and evaluation.oracles, or set evaluation.pairs=0."
        )
    if pairs and config["original"]["checkpoint"] is not None:
        raise UserError(
            "An audit trains originals of its own, and the recipe of original.checkpoint is not known: "
            "set evaluation.pairs=0, or train the original here."
        )
    if pairs and is_continued(config):
        raise UserError(
            "An audit by pairs is not defined for a request after others, because its originals have forgotten "
            "nothing before: set evaluation.pairs=0, or choose evaluation=full."
        )


def _check_objective(evaluation: Mapping[str, Any]) -> None:
    choice(evaluation, "objective", OBJECTIVES, "evaluation.")
    needed = NEEDED.get(evaluation["objective"], ())
    listed = {path.rpartition(".")[2] for path in metrics_in(evaluation)}
    if needed and (evaluation["oracles"] < FEWEST_FOR_A_BAND or not listed.issuperset(needed)):
        raise UserError(
            f"evaluation.objective={evaluation['objective']} needs the metrics {' and '.join(needed)}, and at least "
            f"{FEWEST_FOR_A_BAND} oracles: choose evaluation=full, too."
        )
