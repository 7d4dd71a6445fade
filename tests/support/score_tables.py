"""Made score tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from speechforget.config.inputs import metrics_in
from speechforget.evaluation.divergence import log_softmax
from speechforget.evaluation.tables import Scores, Tables

EVALUATION = Path(__file__).parents[2] / "conf" / "evaluation"
METRICS = [path for path in sorted(EVALUATION.glob("*.yaml")) if metrics_in(OmegaConf.load(path))]
QUICK = EVALUATION / "quick.yaml"
CLASSES, SPEAKERS = 6, 30
WORDS = ("zero", "one", "two", "three", "four", "five")


def make_scores(role, label, logits, nonmember=None, seconds=1.0):
    role, label, logits = np.asarray(role), np.asarray(label), np.asarray(logits, dtype=np.float64)
    nonmember = role == "holdout" if nonmember is None else nonmember
    with np.errstate(all="ignore"):
        loss = -log_softmax(logits)[np.arange(len(label)), label]
    return Scores(role, nonmember, label, logits, loss, np.zeros((len(label), 2)), seconds)


def make_tables(
    kind="sample", seed=0, rows=600, oracles=1, roles=("forget", "retain", "validation", "holdout", "test")
):
    draw = np.random.default_rng(seed)
    role, label = draw.choice(roles, size=rows), draw.integers(0, CLASSES, rows)
    forgotten = (1,) if kind == "class" else ()
    if forgotten:
        training = np.isin(role, ["forget", "retain"])
        role = np.where(training, np.where(label == 1, "forget", "retain"), role)
    nonmember = (role == "holdout") & (np.isin(label, forgotten) if forgotten else True)

    def model(known, seconds):
        logits = draw.normal(size=(rows, CLASSES))
        logits[np.arange(rows), label] += np.where(np.isin(role, known), 5, 2)
        return make_scores(role, label, logits, nonmember, seconds)

    oracle_scores = tuple(model(["retain"], 9.0 + number) for number in range(oracles))
    original, unlearned = model(["forget", "retain"], 10.0), model(["retain"], 2.0)
    speaker = np.char.add("speaker", draw.integers(0, SPEAKERS, rows).astype(str))
    untrained = draw.normal(size=(5, int((role == "forget").sum()), CLASSES))
    tables = Tables(original, oracle_scores, unlearned, forgotten, seed, speaker, WORDS, untrained=untrained)
    return replace(tables, groups={"sex": np.where(np.arange(rows) % 3, "male", "female")})
