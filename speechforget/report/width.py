"""Which columns of a table a terminal has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PADDING, EDGES = 3, 2  # letters between two columns, and at both sides of a table


def fitting(
    headings: Sequence[str], rows: Sequence[Sequence[str]], ranks: Sequence[int], width: int, names: int
) -> dict[int, int]:
    """The places of the columns that are shown in `width` letters, and how wide each is; names: how many letters the names of the rows take.

    ranks: the columns of the highest are left out first, together; at least those of the lowest stay. A heading breaks between words before a
    column is left out, the widest first, and a cell never does.
    """
    cells = [
        max((len(line) for row in rows for line in row[place].split("\n")), default=0) for place in range(len(headings))
    ]
    least = [max(cell, *map(len, heading.split())) for cell, heading in zip(cells, headings, strict=True)]
    kept = {
        place: max(cell, *map(len, heading.split("\n")))
        for place, (cell, heading) in enumerate(zip(cells, headings, strict=True))
    }
    while names + taken(kept) > width:
        wider = [place for place in kept if kept[place] > least[place]]
        if wider:
            kept[max(wider, key=kept.__getitem__)] -= 1
            continue
        highest = max(ranks[place] for place in kept)
        if highest == min(ranks[place] for place in kept):
            break
        kept = {place: kept[place] for place in kept if ranks[place] != highest}
    return kept


def taken(kept: Mapping[int, int]) -> int:
    """How many letters the columns take, with all that stands between and around them."""
    return EDGES + sum(kept.values()) + PADDING * len(kept)


def left_out(headings: Sequence[str], elsewhere: str) -> str:
    """The sentence that names the columns that are not shown."""
    return f"Too narrow for {', '.join(headings)}: widen the terminal, or set COLUMNS; {elsewhere}."
