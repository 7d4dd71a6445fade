"""An attribute that a request removes, such as the sex of the speaker: recordings and labels stay."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from speechforget.data.requests.draw import Rows

KIND = "attribute"  # of a task


@dataclass(frozen=True)
class Attribute:
    """Hold the value of each row of the table: (rows,) str, "" where unknown. column: its name in the corpus."""

    column: str
    values: NDArray[np.str_]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """List the known values."""
        return tuple(sorted({str(value) for value in self.values} - {""}))

    @cached_property
    def numbers(self) -> Rows:
        """Return the index of each row's value in `names`, -1 where unknown."""
        place = {name: number for number, name in enumerate(self.names)}
        return np.array([place.get(str(value), -1) for value in self.values], dtype=np.int64)
