"""Zero retrain forgetting: how near answers on forget are to those of models of random weights."""

from __future__ import annotations

import numpy as np

from speechforget.evaluation.divergence import jensen_shannon
from speechforget.evaluation.intervals import mean
from speechforget.evaluation.tables import NOTHING, Tables, Value, missing

UNSCORED = "no models of random weights were scored"


def zrf(tables: Tables, model: str) -> dict[str, Value]:
    """Compute ZRF on forget, by the formula of the paper.

    Explanation:
        values: zrf_forget
        meaning: How much the model's answers on forget look like those of models that learned nothing. The authors
            read 1 as the best forgetting. But an oracle is sure of many utterances that it never heard, so its own
            value is far from 1, and a value above it means that the model is conspicuously ignorant of forget.
        formula: 1 - mean over forget and over 5 models of random weights of JS(p_model, p_random), with JS = KL(p || m)
            / 2 + KL(q || m) / 2, m = (p + q) / 2, and natural logarithms, so that it is at most log 2.
        unit: none, in [1 - log 2, 1] = [0.307, 1]; 95 % normal interval over utterances; `count` is forget.
        aim: the oracle's value (null_low to null_high), not 1.
        fooled by: over-forgetting, which it rewards: uniform answers are near those of random weights; a model of
            random weights that is sure of one class, whose answers say nothing of ignorance.
        source: Chundawat et al., AAAI 2023, section "Evaluation metrics"; they take one model of random weights. Their
            code averages KL(m || p) over utterances and classes, which is near 1 for many classes; this is the formula.
    """
    rows = np.flatnonzero(tables.subsets()["forget"])
    if tables.untrained is None:
        return {"zrf_forget": missing(UNSCORED)}
    if not len(rows):
        return {"zrf_forget": NOTHING}
    logits = np.asarray(tables.of(model).logits[rows])
    found = mean(1 - np.mean([jensen_shannon(logits, other) for other in tables.untrained], axis=0))
    return {"zrf_forget": found._replace(high=min(found.high, 1.0) if found.count > 1 else found.high)}
