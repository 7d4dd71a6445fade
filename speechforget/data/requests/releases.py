"""Compare two releases of a corpus: what the first lists and the second does not was withdrawn in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechforget.data.tables.delimited import read_delimited
from speechforget.data.tables.text import tidy
from speechforget.errors import UserError

COLUMNS = ("id", "path")  # of a table; the first that it has names the utterances


def read_gone(releases: Sequence[Any]) -> list[str]:
    """Return the ids that the first of two tables lists and the second does not, in the order of the first.

    Raises UserError for a table that cannot be read or names no utterances, and if nothing is gone.
    """
    before, after = (_ids(Path(str(file)).expanduser()) for file in releases)
    gone = [identity for identity in before if identity not in set(after)]
    if not gone:
        raise UserError(
            f"The release {releases[1]} lists all that {releases[0]} lists, so there is nothing to forget: "
            "exchange the two tables, or name a later release."
        )
    return gone


def _ids(path: Path) -> list[str]:
    table, _ = read_delimited(path, COLUMNS[0])
    named = {tidy(column).casefold(): column for column in table.columns}
    column = next((named[name] for name in COLUMNS if name in named), None)
    if column is None:
        raise UserError(f"The release {path} has no column id or path, which names its utterances: add one.")
    return list(dict.fromkeys(map(str, table[column])))
