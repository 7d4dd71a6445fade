"""The columns of all tables, the format of their numbers, and the choice of columns that fit a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

PADDING, EDGES = 3, 2  # letters between two columns, and at both sides of a table


class Column(NamedTuple):
    """Describe a column. factor: 100 for percent. rank: a narrow terminal leaves out the highest ranks first.

    optional: a table shows it only if a run measured it.
    """

    metric: str
    heading: str
    factor: float
    decimals: int
    rank: int
    optional: bool = False


# In the order of the paper's Tables 1 and 2. A share and the accuracy of its attack have one rank, because the accuracy
# says what the share is worth: both are shown, or neither.
COLUMNS = (
    Column("accuracy_test", "test %", 100, 1, rank=1),
    Column("accuracy_test_forgotten", "test of forgotten classes %", 100, 1, rank=4),
    Column("accuracy_forget", "forget %", 100, 1, rank=0),
    Column("accuracy_retain", "retain %", 100, 1, rank=2),
    Column("word_error_rate_test", "test WER %", 100, 1, rank=1, optional=True),
    Column("word_error_rate_forget", "forget WER %", 100, 1, rank=0, optional=True),
    Column("word_error_rate_retain", "retain WER %", 100, 1, rank=2, optional=True),
    Column("character_error_rate_forget", "forget CER %", 100, 1, rank=4, optional=True),
    Column("membership_nonmember_share", "judged non-member %", 100, 1, rank=5),
    Column("membership_attack_accuracy", "attack accuracy %", 100, 1, rank=5),
    Column("membership_auc", "attack AUC", 1, 3, rank=3),
    Column("told_from_oracles", "told from oracles AUC", 1, 3, rank=3, optional=True),
    Column("cgum", "CGUM", 1, 3, rank=3, optional=True),
    Column("backdoor_success", "trigger works %", 100, 1, rank=3, optional=True),
    Column("seconds", "seconds", 1, 1, rank=6),
)
# The table of one run starts with forget, and gives the accuracy of the attack in a sentence instead of a column.
RUN_ORDER = ["accuracy_forget", "accuracy_retain", "accuracy_test", "accuracy_test_forgotten"]
RUN_ORDER += [f"word_error_rate_{name}" for name in ("forget", "retain", "test")]
RUN_ORDER += ["character_error_rate_forget"]
RUN_ORDER += ["membership_nonmember_share", "membership_auc", "seconds"]
RUN_COLUMNS = tuple(column for metric in RUN_ORDER for column in COLUMNS if column.metric == metric)


def shown(columns: Sequence[Column], measured: Collection[str]) -> list[Column]:
    """List the columns of a table: an optional one only if it was measured; of transcripts, only measured ones."""
    texts = any(name.startswith("word_error_rate") for name in measured)
    return [column for column in columns if column.metric in measured or not (column.optional or texts)]


def number(value: float | None, factor: float, decimals: int, missing: str = "–", sign: bool = False) -> str:
    """Format `value * factor` in fixed decimals, never "-0.0"; `missing` for None."""
    if value is None:
        return missing
    rounded = round(value * factor, decimals) + 0.0
    return f"{rounded:{'+' if sign else ''}.{decimals}f}" if rounded or not sign else f"{0:.{decimals}f}"


def fit(
    headings: Sequence[str], rows: Sequence[Sequence[str]], ranks: Sequence[int], width: int, names: int
) -> dict[int, int]:
    """Choose the columns that fit into `width` letters: the index of each -> its width in letters.

    names: letters of the longest row name. ranks: columns of the highest rank are left out first, all together; those
    of the lowest rank always stay. Before a column is left out, headings break between words, the widest first. Cells
    never break.
    """
    cells = [
        max((len(line) for row in rows for line in row[index].split("\n")), default=0) for index in range(len(headings))
    ]
    least = [max(cell, *map(len, heading.split())) for cell, heading in zip(cells, headings, strict=True)]
    kept = {index: max(cell, len(heading)) for index, (cell, heading) in enumerate(zip(cells, headings, strict=True))}
    while names + width_of(kept) > width:
        wider = [index for index in kept if kept[index] > least[index]]
        if wider:
            kept[max(wider, key=kept.__getitem__)] -= 1
            continue
        highest = max(ranks[index] for index in kept)
        if highest == min(ranks[index] for index in kept):
            break
        kept = {index: kept[index] for index in kept if ranks[index] != highest}
    return kept


def width_of(kept: Mapping[int, int]) -> int:
    """Return the letters that the columns take, with the space between and around them."""
    return EDGES + sum(kept.values()) + PADDING * len(kept)


def left_out(headings: Sequence[str], elsewhere: str) -> str:
    """Write the sentence that names the columns that are not shown."""
    return f"The terminal is too narrow for {', '.join(headings)}: widen it, or set COLUMNS. {elsewhere}."
