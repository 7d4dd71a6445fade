"""Wall time of making a model."""

from __future__ import annotations

import math

from speechforget.evaluation.tables import Tables, Value, missing


def seconds(tables: Tables, model: str) -> dict[str, Value]:
    """Return the wall time of making a model.

    Explanation:
        values: seconds
        meaning: How long training (original, oracle) or unlearning took on its own machine, with masks, teachers and
            importances, without evaluation.
        formula: wall-clock seconds with the device synchronised.
        unit: seconds; no interval.
        aim: less than the oracle's: a method that takes longer than training anew has no use.
        fooled by: different machines, threads and other jobs on the same cores: compare passes over samples instead.
        source: recorded by the stage that makes the model.
    """
    took = float(tables.of(model).seconds)
    if math.isnan(took):
        return {"seconds": missing("the time to train an imported model is not known")}
    return {"seconds": Value(took, math.nan, math.nan, 1)}
