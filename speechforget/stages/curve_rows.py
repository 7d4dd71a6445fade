"""Choose the utterances that the learning curve of a method is measured on after each pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from speechforget.seeding import order

FEWEST = 200  # utterances of retain
SETS = ("forget", "retain", "validation")


def curve_rows(rows: Mapping[str, NDArray[np.int64]], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the rows of forget, retain and validation that a curve is measured on, without empty sets.

    Of retain, as many as of forget are drawn, but at least `FEWEST`: a pass over all of it may take longer than the
    method itself.
    """
    found = {name: rows[name] for name in SETS if len(rows.get(name, ()))}
    if "retain" in found:
        most = max(len(found.get("forget", ())), FEWEST)
        found["retain"] = np.sort(order(found["retain"], seed, "learning curve")[:most])
    return found
