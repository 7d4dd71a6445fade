"""Wall time of making a model."""

from __future__ import annotations

import math

from speechforget.evaluation.tables import NOTHING, Tables, Value


def seconds(tables: Tables, model: str) -> dict[str, Value]:
    """Return `seconds`: wall time of training (original, oracle) or unlearning on its own machine; lower is better.

    nan for an imported original, because its training time is not known.
    """
    took = float(tables.of(model).seconds)
    return {"seconds": NOTHING if math.isnan(took) else Value(took, math.nan, math.nan, 1)}
