"""Names of people and recordings in charts: as salted hashes, or openly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechforget.record.salt import Salt, own_salt

SHOWN = 12  # digits of a hash that stands for an id, a speaker


class Names:
    """Give what names people as salted hashes, or openly if asked. folder: of the outputs, which has the salt."""

    def __init__(self, folder: Path, open_ids: bool) -> None:
        self.folder, self.open_ids = folder, open_ids

    @cached_property
    def salt(self) -> Salt:
        """Return the secret of the output folder, which is made when the first name is hashed."""
        return own_salt(self.folder)

    def shown(self, name: str) -> str:
        """Return a name, or the first digits of its salted hash; empty for an empty name."""
        return name if self.open_ids or not name else self.salt.hashed(name)[:SHOWN]

    def all(self, names: Sequence[str] | NDArray[np.str_]) -> NDArray[np.str_]:
        """Return every name as it is shown."""
        known = {name: self.shown(str(name)) for name in dict.fromkeys(names)}
        return np.array([known[name] for name in names], dtype=str)
