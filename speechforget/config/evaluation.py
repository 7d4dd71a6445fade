"""Check what a run evaluates: metrics, attacks on models, numbers of oracles and of complementary pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.oracle import has_oracle
from speechforget.config.ranges import whole
from speechforget.errors import UserError

FEWEST = 4  # pairs, and oracles beside pairs: fewer give no interval


def check_evaluation(config: Mapping[str, Any]) -> None:
    """Raise UserError for numbers of oracles and pairs that give no result."""
    evaluation = config["evaluation"]
    for name, low in (("oracles", 1), ("pairs", 0)):
        whole(evaluation, name, low, "evaluation.")
    oracles, pairs = evaluation["oracles"], evaluation["pairs"]
    for name in ("metrics", "attacks"):
        if not isinstance(evaluation[name], list | tuple):
            raise UserError(f"evaluation.{name} must be a list, not {evaluation[name]!r}.")
    if not evaluation["metrics"]:
        raise UserError("evaluation.metrics is empty: list at least one metric, or choose evaluation=quick.")
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
