"""Which utterances train, validate, test, and stay unheard: decided by hashes of ids, so that a corpus that grows by one file changes little."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.corpus import attributes, identities
from speechforget.draws import uniform
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

PRECEDENCE = ("test", "validation", "train")  # where copies of one recording are kept when they lie in several subsets


def split(table: pd.DataFrame, label: str, validation: float = 0.1, holdout: float = 0.2, copies: str = "include", seed: int = 0) -> pd.DataFrame:
    """The table with its final subsets: adds `label`, `unit` and sets `subset` to train, validation, holdout or test.

    The training pool is what the corpus gives to training or leaves unassigned. Holdout is the share `holdout` of it and, where the corpus has no
    validation subset, validation is the share `validation` of it, both by systematic sampling over (word, speaker) cells (Cochran, Sampling
    Techniques, 1977, chapter 8): what is held out is exchangeable with what is trained on. `unit` is the same for exact copies of a recording (by
    its column sha1): they get the same subset, and of copies that the corpus itself puts into several subsets only those in the test subset are
    kept, else those in the validation subset. copies="ignore" leaves copies where they are. Rows of labels that are never trained on are dropped.

    Raises UserError when the label is unknown, the shares are impossible, or training or test would be empty.
    """
    if label not in attributes(table):
        raise UserError(f"dataset.label is '{label}', which this corpus does not know: {nearest(label, attributes(table))}.")
    if min(validation, holdout) < 0 or validation + holdout >= 1:
        raise UserError(f"dataset.validation={validation} and dataset.holdout={holdout} must not be negative and must leave something to train on.")
    if copies not in {"include", "ignore"}:
        raise UserError(f"dataset.copies is '{copies}': choose include or ignore.")
    table = table.assign(label=table[label].astype(str), subset=table["subset"].replace("", "train"))
    table = _keep(table, table["label"] != "", f"have no {label}")
    table["unit"] = _units(table) if copies == "include" else table["id"]
    table = _keep(table, ~_copied_elsewhere(table), "are copies of a recording in the test or validation subset")
    trained = set(table.loc[table["subset"] == "train", "label"])
    table = _keep(table, table["label"].isin(trained), f"have a {label} that the training subset lacks")
    if len(trained) < 2:
        raise UserError(f"The training subset has {len(trained)} different {label}(s): a classifier needs at least two.")
    if not (table["subset"] == "test").any():
        raise UserError(f"No utterance is left to test on: give some the subset 'test', or a label other than '{label}'.")
    _take(table, "holdout", holdout, label, seed)
    if not (table["subset"] == "validation").any():
        _take(table, "validation", validation / (1 - holdout), label, seed)
    return table.reset_index(drop=True)


def systematic(table: pd.DataFrame, share: float, by: list[str], *salt: int | str) -> NDArray[np.bool_]:
    """A systematic sample of the rows, bool (rows,): within 1 of `share` in each value of by[0] and in each cell of all of `by`.

    Rows are laid out by by[0], then by cell in drawn order, then in drawn order within the cell; every 1/share-th is taken from a drawn start, one
    start for each value of by[0]. Each row is taken with probability `share`, and the draws depend on the salt and on ids alone.
    """
    outer = table[by[0]].astype(str)
    cells = pd.Series(["\x1f".join(values) for values in zip(*(table[column].astype(str) for column in by), strict=True)], index=table.index)
    place = uniform(identities(table["id"]), 1, "order", *salt)[:, 0]
    cell_place, start = _drawn(cells, "cell", *salt), _drawn(outer, "start", *salt)
    laid_out = np.lexsort((table["id"].to_numpy(str), place, cell_place, outer.to_numpy(str)))
    number = np.empty(len(table), dtype=np.int64)
    number[laid_out] = table.iloc[laid_out].groupby(outer.to_numpy(str)[laid_out], sort=False).cumcount().to_numpy()
    return np.floor((number + 1) * share + start) > np.floor(number * share + start)


def _drawn(names: pd.Series, *salt: int | str) -> NDArray[np.float64]:
    """One uniform number for each name, the same wherever the name stands."""
    codes, unique = pd.factorize(names)
    return uniform(identities(pd.Series(unique)), 1, *salt)[codes, 0]


def _keep(table: pd.DataFrame, kept: pd.Series, reason: str) -> pd.DataFrame:
    dropped = int((~kept).sum())
    if dropped:
        logger.info("%d of %d utterances %s and are left out", dropped, len(table), reason)
    return table[kept].copy()


def _units(table: pd.DataFrame) -> pd.Series:
    """The smallest id among the exact copies of each recording."""
    if "sha1" not in table:
        return table["id"]
    smallest = table[["sha1", "id"]].sort_values("id").drop_duplicates("sha1").set_index("sha1")["id"]
    return table["sha1"].map(smallest)  # groupby(...).transform("min") of text is one call of Python for each recording


def _copied_elsewhere(table: pd.DataFrame) -> pd.Series:
    rank = table["subset"].map({subset: rank for rank, subset in enumerate(PRECEDENCE)})
    return rank > rank.groupby(table["unit"]).transform("min")


def _take(table: pd.DataFrame, subset: str, share: float, label: str, seed: int) -> None:
    """Moves the share of the training units to `subset`, in place; every label keeps at least one unit to train on."""
    units = table[table["subset"] == "train"].sort_values("id").drop_duplicates("unit")
    by = [label, *(column for column in ("word", "speaker") if column in table and column != label)]
    chosen = units[systematic(units, share, by, subset, seed)]
    kept = set(units["label"]) - set(units.loc[~units["unit"].isin(chosen["unit"]), "label"])
    chosen = chosen[~(chosen["label"].isin(kept) & ~chosen.duplicated("label"))]
    table.loc[(table["subset"] == "train") & table["unit"].isin(chosen["unit"]), "subset"] = subset
