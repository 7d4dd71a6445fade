"""What making a model cost."""

from __future__ import annotations

import math

from speechforget.evaluation.tables import Tables, Value


def seconds(tables: Tables, model: str) -> dict[str, Value]:
    """`seconds`: wall time of training (original, oracle) or of unlearning, on the machine that did it; lower is better."""
    return {"seconds": Value(float(tables.of(model).seconds), math.nan, math.nan, 1)}
