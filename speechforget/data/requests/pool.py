"""Draw the pool of an audit and its complementary halves.

The pool holds the request and as many other training utterances of the same make-up. Each pair splits the pool at
random into two halves. One model knows a half and forgets it; the other model of the pair never heard it.
Design: Tu, Hu & Ma (NeurIPS 2025, arXiv 2404.11577), with a new split for each pair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.corpora.base import attributes, identities
from speechforget.data.requests.draw import Rows, with_copies
from speechforget.data.requests.select import DRAWN, NONE, Request
from speechforget.errors import UserError
from speechforget.seeding import uniform

HALVES = "ab"
POOL = "pool"  # the part of models that never heard the pool
TRIES = 1000


@dataclass(frozen=True)
class Pool:
    """A pool of n training utterances and J splits into halves.

    rows: (n,) row numbers, ascending. half: (J, n), 0 or 1. unit: (n,) numbers of what is drawn as a whole: a speaker
    (or another value of `task.by`), or an utterance with its exact copies. made_up: a sentence about the pool.
    withdrawn: rows of other subsets that a list named; they are in no metric and in no validation set.
    """

    rows: Rows
    half: NDArray[np.int64]
    unit: NDArray[np.int64]
    name: str
    made_up: str
    withdrawn: Rows = field(default_factory=NONE.copy)

    def trained_without(self, part: str) -> Request:
        """Return what a model of a part is trained without: the whole pool, or the half that it must not know."""
        unheard = self.rows if part == POOL else self._half(part, known=False)
        return Request(unheard, NONE.copy(), (), self._name(part), withdrawn=self.withdrawn)

    def forgetting(self, part: str) -> Request:
        """Return the request of a part: forget the half that its original knows. The other half is withdrawn."""
        known, unheard = (self._half(part, known) for known in (True, False))
        withdrawn = np.union1d(unheard, self.withdrawn)
        return Request(known, NONE.copy(), (), self._name(part), withdrawn=withdrawn)

    def _name(self, part: str) -> str:
        return f"{self.name}-{part if part == POOL else f'pair{part}'}"

    def _half(self, part: str, known: bool) -> Rows:
        pair, half = int(part[:-1]), HALVES.index(part[-1])
        return self.rows[(self.half[pair] == half) == known]


def parts(pairs: int) -> list[str]:
    """Name both models of each pair: 0a, 0b, 1a, ..."""
    return [f"{pair}{half}" for pair in range(pairs) for half in HALVES]


def draw_pool(table: pd.DataFrame, request: Request, task: Mapping[str, Any], pairs: int) -> Pool:
    """Draw the pool of a request for samples, and `pairs` different splits of it.

    A request by a column, such as speaker, is joined by as many other values of it, and halves hold whole values. Any
    other request is joined, utterance by utterance, by one of the same label and speaker, else of the same label.
    Raises UserError if too little is left outside the request, if there are fewer different splits than pairs, or if
    the rest lacks a label.
    """
    by, seed = str(task["by"]), int(task["seed"])
    if by in DRAWN:
        others, made_up = _similar_rows(table, request.forget, seed)
        rows = with_copies(table, np.concatenate([request.forget, others]))
        column, cell = "unit", _cells(table.iloc[rows], ["label", "speaker"])
    else:
        others, made_up = _other_values(table, request.forget, by, seed)
        rows = np.sort(np.concatenate([request.forget, others]))
        column, cell = by, np.zeros(len(rows), dtype=np.int64)
    names, unit = np.unique(table[column].iloc[rows].to_numpy(str), return_inverse=True)
    if math.comb(len(names), len(names) // 2) / 2 < pairs:
        raise UserError(
            f"{len(names)} {'utterances' if column == 'unit' else f'values of {by}'} have fewer than {pairs} different "
            "splits into halves: ask for a larger request, or set evaluation.pairs=0."
        )
    _check_rest(table, rows)
    half = _splits(identities(pd.Series(names)), unit, cell, pairs, seed)
    return Pool(rows, half, unit, request.name, made_up, request.withdrawn)


def _cells(table: pd.DataFrame, columns: list[str]) -> NDArray[np.int64]:
    """Number the combinations of the columns that the table has."""
    there = [column for column in columns if column == "label" or column in attributes(table)]
    return np.asarray(table.groupby(there, sort=True).ngroup(), dtype=np.int64)


def _similar_rows(table: pd.DataFrame, forget: Rows, seed: int) -> tuple[Rows, str]:
    """Draw as many other training rows as are forgotten: of the same label and speaker, else of the same label."""
    free = ((table["subset"] == "train") & ~table["unit"].isin(table["unit"].iloc[forget])).to_numpy(copy=True)
    draw = uniform(identities(table["id"]), 1, seed, "pool")[:, 0]
    wanted, chosen, counts = forget, [], []
    for columns in (["label", "speaker"], ["label"]):
        cell = _cells(table, columns)
        candidates = np.flatnonzero(free)
        found, left = _matched(cell, wanted, candidates[np.argsort(draw[candidates], kind="stable")])
        free[found] = False
        chosen.append(found)
        counts.append(len(found))
        wanted = left
    if len(wanted):
        raise UserError(
            f"The request holds {len(forget)} recordings, and training has no equally many others of the same labels: "
            "an audit needs them. Ask for at most half of each label, or set evaluation.pairs=0."
        )
    matched = "all match in label and speaker"
    if counts[0] < len(forget):
        matched = f"{counts[0]} of {len(forget)} match in label and speaker, the others in label"
    return np.concatenate(chosen), f"The pool of {2 * len(forget)} holds the request and similar recordings: {matched}."


def _matched(cell: NDArray[np.int64], wanted: Rows, candidates: Rows) -> tuple[Rows, Rows]:
    """Match wanted rows with candidates of the same cell, in order; return those taken, and the unmatched rows."""
    need = pd.Series(cell[wanted]).value_counts()
    position = pd.Series(cell[candidates]).groupby(cell[candidates]).cumcount().to_numpy()
    taken = candidates[position < need.reindex(cell[candidates]).fillna(0).to_numpy()]
    there = pd.Series(cell[taken]).value_counts().reindex(cell[wanted]).fillna(0).to_numpy()
    rank = pd.Series(cell[wanted]).groupby(cell[wanted]).cumcount().to_numpy()
    return taken, wanted[rank >= there]


def _other_values(table: pd.DataFrame, forget: Rows, by: str, seed: int) -> tuple[Rows, str]:
    """Draw as many other values of a column as are forgotten; return their training rows."""
    train = table[(table["subset"] == "train") & (table[by] != "")]
    asked = set(table[by].iloc[forget])
    others = sorted(set(train[by]) - asked)
    if len(others) < len(asked):
        raise UserError(
            f"The request holds {len(asked)} values of {by}, and training has only {len(others)} others: an audit "
            f"needs as many. Ask for fewer, or set evaluation.pairs=0."
        )
    draw = uniform(identities(pd.Series(others)), 1, seed, "pool")[:, 0]
    drawn = [others[index] for index in np.argsort(draw, kind="stable")[: len(asked)]]
    rows = train.index[train[by].isin(drawn)].to_numpy(np.int64)
    return rows, f"The pool holds the {len(asked)} values of {by} in the request, and as many others."


def _check_rest(table: pd.DataFrame, rows: Rows) -> None:
    """Raise UserError if training without the pool lacks a label."""
    train = table["subset"] == "train"
    rest = train.to_numpy(copy=True)
    rest[rows] = False
    lacking = sorted(set(table["label"][train]) - set(table["label"][rest]))
    if lacking:
        raise UserError(
            f"Without the pool of the audit, no training recording of '{lacking[0]}' is left: "
            "ask for a smaller request, or set evaluation.pairs=0."
        )


def _splits(
    names: NDArray[np.int64], unit: NDArray[np.int64], cell: NDArray[np.int64], pairs: int, seed: int
) -> NDArray[np.int64]:
    """Draw different splits of units into halves, balanced over cells. unit, cell: (n,). Returns (pairs, n)."""
    first = np.unique(unit, return_index=True)[1]
    found: list[NDArray[np.int64]] = []
    seen: set[bytes] = set()
    for number in range(TRIES * pairs):
        draw = uniform(names, 2, seed, "pair", number)
        order = np.lexsort((draw[:, 0], cell[first]))
        # Neighbours in the order are of one cell where possible; a coin says which of two goes where.
        coin = (draw[order[0::2], 1] < 0.5).astype(np.int64)
        half = np.empty(len(order), dtype=np.int64)
        half[order[0::2]] = coin
        half[order[1::2]] = 1 - coin[: len(order) // 2]
        half ^= half[0]  # a split and its mirror image are one
        if half.tobytes() not in seen:
            seen.add(half.tobytes())
            found.append(half[unit])
        if len(found) == pairs:
            return np.stack(found)
    raise UserError("The pool has too few different splits: lower evaluation.pairs.")
