"""Which columns of a table a terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence

PADDING = 3  # between two columns


def fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], ranks: Sequence[int], width: int, names: int) -> list[int]:
    """The places of the columns that are shown in `width` letters; names: how many of those the names of the rows take.

    ranks: the columns of the highest are left out first, together; at least those of the lowest stay. A heading may break between words.
    """
    widths = [
        max(*map(len, heading.split()), *(len(line) for row in rows for line in row[place].split("\n"))) + PADDING
        for place, heading in enumerate(headings)
    ]
    kept = list(range(len(headings)))
    while sum(widths[place] for place in kept) + names > width and len({ranks[place] for place in kept}) > 1:
        highest = max(ranks[place] for place in kept)
        kept = [place for place in kept if ranks[place] != highest]
    return kept


def left_out(headings: Sequence[str], elsewhere: str) -> str:
    """The sentence that names the columns that are not shown."""
    return f"Too narrow for {', '.join(headings)}: widen the terminal, or set COLUMNS; {elsewhere}."
