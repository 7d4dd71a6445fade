"""Which utterances train, validate, test, and stay unheard: each by a hash of its own id, so that a file more or less moves no other one."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.corpora.base import attributes, identities
from speechforget.data.windows import check_apart, overlapping
from speechforget.errors import UserError, nearest
from speechforget.seeding import uniform

logger = logging.getLogger(__name__)

SPREAD = 3  # standard deviations by which a drawn share may miss
PRECEDENCE = ("test", "validation", "train")  # where copies of one recording are kept when they lie in several subsets


def split(
    table: pd.DataFrame,
    label: str,
    validation: float = 0.1,
    holdout: float = 0.2,
    copies: str = "include",
    seed: int = 0,
) -> pd.DataFrame:
    """The table with its final subsets: adds `label`, `unit` and sets `subset` to train, validation, holdout or test.

    The training pool is what the corpus gives to training or leaves unassigned. Holdout is the share `holdout` of it and, where the corpus has no
    validation subset, validation is the share `validation` of it, both by `drawn_share`: what is held out is exchangeable with what is trained on,
    and stays where it is when other recordings are deleted or added. `unit` is the same for what must stay together: exact copies of a recording
    (by its column sha1) and windows of a file that overlap in time. A unit gets one subset; of copies that the corpus itself puts into several
    subsets only those in the test subset are kept, else those in the validation subset. copies="ignore" leaves copies where they are. Rows of
    labels that are never trained on are dropped.

    Raises UserError when the label is unknown, the shares are impossible, the corpus puts overlapping windows into two subsets, or training or test
    would be empty.
    """
    if label not in attributes(table):
        raise UserError(
            f"dataset.label is '{label}', which this corpus does not know: {nearest(label, attributes(table))}."
        )
    if min(validation, holdout) < 0 or validation + holdout >= 1:
        raise UserError(
            f"dataset.validation={validation} and dataset.holdout={holdout} must not be negative and must leave something to train on."
        )
    if copies not in {"include", "ignore"}:
        raise UserError(f"dataset.copies is '{copies}': choose include or ignore.")
    table = table.assign(label=table[label].astype(str), subset=table["subset"].replace("", "train"))
    table = _keep(table, table["label"] != "", f"have no {label}")
    check_apart(table, lambda row: f"'{table['id'].iloc[row]}'")
    table["unit"] = units(table, copies == "include")
    table = _keep(table, ~_copied_elsewhere(table), "are copies of a recording in the test or validation subset")
    trained = set(table.loc[table["subset"] == "train", "label"])
    table = _keep(table, table["label"].isin(trained), f"have a {label} that the training subset lacks")
    if len(trained) < 2:
        raise UserError(
            f"The training subset has {len(trained)} different {label}(s): a classifier needs at least two."
        )
    if not (table["subset"] == "test").any():
        raise UserError(
            f"No utterance is left to test on: give some the subset 'test', or a label other than '{label}'."
        )
    _take(table, "holdout", holdout, seed)
    if not (table["subset"] == "validation").any():
        _take(table, "validation", validation / (1 - holdout), seed)
    return table.reset_index(drop=True)


def drawn_share(table: pd.DataFrame, share: float, by: str, *salt: int | str) -> NDArray[np.bool_]:
    """About the share of the rows, bool (rows,): those whose own hash lies below it. Rows with the same `unit`, where there is one, go together.

    The hash is of the unit's name and the salt alone, so a recording more or less moves no other one. (A unit is called after the smallest of its
    ids: who deletes just that one of several copies draws anew for the others.) The price is balance. Of n units of a value of `by`, n x share are
    taken with a binomial standard deviation; a systematic sample over words and speakers stays within 1 of it. So the count is bounded: to
    `SPREAD` standard deviations, to 1 at least where half a unit is expected, and to all but one. Where a bound is met, which is in a few of a
    thousand values of 20 units and more, a deletion may move the one unit whose hash is nearest to the share.

    Measured on 30 speakers x 10 words x 8 takes beside a systematic sample, with losses that have speaker and word effects (standard deviations 1
    and 0.5, beside noise of 1), share 0.2: deleting 90 of 2,700 recordings moves 0.03 others on average instead of 1,020. The number held out of a
    word is 48 +- 6 instead of 48, of a speaker 16 +- 3.4 instead of +- 1.5. A fair attack's AUC has a standard deviation of 0.032 instead of 0.029
    for random requests of 5 percent, 0.086 instead of 0.079 for a speaker, 0.045 instead of 0.041 for a word; 1 percent of its 99 % intervals miss
    0.5, as they should, where none did.
    """
    names = table["unit"] if "unit" in table else table["id"]
    each = pd.DataFrame(
        {"unit": names.to_numpy(), "by": table[by].to_numpy(), "id": table["id"].to_numpy()}
    ).sort_values("id")
    each = each.drop_duplicates("unit")
    each["place"] = uniform(identities(each["unit"]), 1, *salt)[:, 0]
    rank = each.sort_values(["place", "unit"]).groupby("by").cumcount().reindex(each.index)
    groups = each.assign(below=each["place"] < share).groupby("by")["below"].agg(["size", "sum"])
    expected = groups["size"] * share
    slack = SPREAD * np.sqrt(expected * (1 - share))
    fewest = np.maximum(np.ceil(expected - slack), expected >= 0.5)
    taken = groups["sum"].clip(fewest, np.maximum(np.floor(expected + slack), fewest)).clip(upper=groups["size"] - 1)
    chosen = each["unit"][rank < each["by"].map(taken)]
    return names.isin(set(chosen)).to_numpy()


def units(table: pd.DataFrame, copies: bool = True) -> pd.Series:
    """The smallest id among the rows that must stay together: overlapping windows of a file and, with `copies`, exact copies (column sha1)."""
    ids = table["id"].sort_values().to_numpy()
    own = np.searchsorted(ids, table["id"].to_numpy())
    ties = [overlapping(table).to_numpy(), *([pd.factorize(table["sha1"])[0]] if copies and "sha1" in table else [])]
    smallest, before = own, None
    while before is None or (smallest != before).any():  # a copy of a window that overlaps another, whose copy ...
        before = smallest
        for tie in ties:
            least = np.full(tie.max(initial=-1) + 1, len(ids))
            np.minimum.at(least, tie, smallest)
            smallest = least[tie]
    return pd.Series(ids[smallest], index=table.index)


def _keep(table: pd.DataFrame, kept: pd.Series, reason: str) -> pd.DataFrame:
    dropped = int((~kept).sum())
    if dropped:
        logger.info("%d of %d utterances %s and are left out", dropped, len(table), reason)
    return table[kept].copy()


def _copied_elsewhere(table: pd.DataFrame) -> pd.Series:
    rank = table["subset"].map({subset: rank for rank, subset in enumerate(PRECEDENCE)})
    return rank > rank.groupby(table["unit"]).transform("min")


def _take(table: pd.DataFrame, subset: str, share: float, seed: int) -> None:
    """Moves the share of the training units to `subset`, in place; every label keeps at least one unit to train on."""
    pool = table[table["subset"] == "train"]
    chosen = drawn_share(pool, share, "label", "split", subset, seed)
    for name in sorted(set(pool["label"]) - set(pool["label"][~chosen])):  # all of its units bear another label, too
        chosen &= (pool["unit"] != pool["unit"][pool["label"] == name].min()).to_numpy()
    table.loc[pool.index[chosen], "subset"] = subset
