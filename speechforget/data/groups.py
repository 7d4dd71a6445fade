"""Choose the columns of a corpus whose values are compared as groups of people (`evaluation.groups`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from speechforget.data.corpora.base import attributes
from speechforget.errors import UserError, nearest

AUTO = "auto"
USUAL = ("accent", "gender", "sex")  # what `auto` looks for
FEWEST, MOST = 2, 20  # values of such a column: more are no groups of people


def group_columns(table: pd.DataFrame, asked: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns, each once. asked: names, or `auto` for those of `USUAL` with 2 to 20 values.

    Raises UserError for a column that the corpus does not have, that has one value, or that cannot name a number.
    """
    if asked == AUTO:
        known = [name for name in USUAL if name in attributes(table)]
        return tuple(name for name in known if FEWEST <= _values(table, name) <= MOST)
    names = tuple(dict.fromkeys(map(str, asked)))
    for name in names:
        if name not in attributes(table):
            raise UserError(
                f"evaluation.groups names the column '{name}', which this corpus does not have: "
                f"{nearest(name, attributes(table))}."
            )
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(
                f"evaluation.groups names the column '{name}', which cannot be part of a number's name: "
                "rename the column with letters, digits and _."
            )
        if (count := _values(table, name)) < FEWEST:
            raise UserError(
                f"evaluation.groups names the column '{name}', which has {count} value(s) in this corpus: "
                "choose a column with two or more."
            )
    return names


def _values(table: pd.DataFrame, name: str) -> int:
    return table.loc[table[name] != "", name].nunique()
