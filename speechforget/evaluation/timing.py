"""What making a model cost."""

from __future__ import annotations

import math

from speechforget.evaluation.tables import NOTHING, Tables, Value


def seconds(tables: Tables, model: str) -> dict[str, Value]:
    """`seconds`: wall time of training (original, oracle) or of unlearning, on the machine that did it; lower is better.

    nan for an original that was trained elsewhere, of which that is not known.
    """
    took = float(tables.of(model).seconds)
    return {"seconds": NOTHING if math.isnan(took) else Value(took, math.nan, math.nan, 1)}
