"""What a request costs others: accuracy on test that is lost by each percent of the training data that is forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from speechforget.evaluation.intervals import mean
from speechforget.evaluation.tables import NOTHING, Tables, Value

LEVEL = 0.05
WARNED = {"harm_predicted": "the predicted rise of validation's loss", "gradient_norm": "the norm of its gradient"}
FEWEST_RANDOM = round(len(WARNED) / LEVEL) - 1  # the tests behind a warning share the level


def damage(tables: Tables, model: str) -> dict[str, Value]:
    """Compute how much of the accuracy on test was lost for each percent of the training data that was asked for.

    Explanation:
        values: damage_test, damage_loss_test
        meaning: What a request costs others, as a price a unit, so that requests of different size can be compared. An
            attacker asks for what costs most. The oracle's value is the price of exact deletion; what the unlearned
            model has beyond that is the method's. A random request of the same size is the null (task.by=random with
            several seeds).
        formula: (accuracy of the original - accuracy of the model) / s on test, and (mean loss of the model - of the
            original) / s, with s = 100 forget / (forget + retain), the percentage that was asked for.
        unit: a share, or nats, for each percent of the training utterances; with a 95 % normal interval over test
            utterances (paired).
        aim: the oracle's value. Below 0, others gained.
        fooled by: a method that harms a group which test lacks; requests much smaller than those that a method was
            tuned on, since the price is not linear.
        source: accuracy lost to malicious requests: Zhao et al., NeurIPS 2023 (static and sequential malicious attacks
            in selective forgetting); division by the request is ours.
    """
    scores, subsets = tables.of(model), tables.subsets()
    test, asked, kept = subsets["test"], int(subsets["forget"].sum()), int(subsets["retain"].sum())
    if not test.any() or not asked:
        return {"damage_test": NOTHING, "damage_loss_test": NOTHING}
    percent = 100 * asked / (asked + kept)
    before, after = ((each.predicted == each.label)[test].astype(np.float64) for each in (tables.original, scores))
    loss = (scores.loss - tables.original.loss)[test]
    return {
        "damage_test": mean((before - after) / percent, least=-math.inf),
        "damage_loss_test": mean(loss / percent, least=-math.inf),
    }


def harm_sentence(entries: Mapping[str, Mapping[str, object]]) -> str:
    """Warn of a request that may hurt others more than random ones; empty if it would not, or if that is not known.

    entries: values of the original by name, as in result.json, with those of `attacks.alignment`.
    """
    told = []
    for name, words in WARNED.items():
        mine, null, p = (entries.get(f"{name}{end}", {}) for end in ("", "_random", "_p"))
        rank = p.get("value")
        if isinstance(rank, float) and rank <= LEVEL / len(WARNED):
            told.append(f"{words} is {mine['value']:.2g}, of random requests {null['low']:.2g} to {null['high']:.2g}")
    if not told:
        return ""
    count = entries[f"{next(iter(WARNED))}_p"]["count"]
    return (
        f"Forgetting this request may hurt others more than any of {count} random requests of as many recordings "
        f"({'; '.join(told)}). It may be poisoned, or honestly hard: look at who asks for what."
    )
