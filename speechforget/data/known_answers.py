"""Change training recordings so that the answer to a request is known: noise keys, wrong labels, or a backdoor.

They are part of the data of a split. So original, oracle and unlearned model hear the same recordings and labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.corpora.base import identities
from speechforget.data.requests.draw import named_values, share_of
from speechforget.data.split import drawn_share
from speechforget.errors import UserError
from speechforget.seeding import uniform

logger = logging.getLogger(__name__)

FEWEST = 20  # training recordings that must carry a key: the statistic is the mean over them


def change(
    table: pd.DataFrame,
    planted: Mapping[str, Any],
    confused: Mapping[str, Any],
    mislabelled: Mapping[str, Any],
    backdoor: Mapping[str, Any],
) -> pd.DataFrame:
    """Return the table of `split` with two more columns.

    planted: the kind of key or trigger that a recording carries, "" for none. taught: the label that models are
    trained on. `label` remains the true label; scores and metrics use it.
    """
    table = table.assign(planted="", taught=table["label"])
    if planted["kind"] is not None:
        table.loc[_carriers(table, planted), "planted"] = str(planted["kind"])
    if confused["classes"] is not None:
        first, second = classes_of(table, confused["classes"])
        rows = _exchanged(table, (first, second), confused)
        table.loc[rows, "taught"] = table.loc[rows, "label"].map({first: second, second: first})
    if mislabelled["percent"] is not None:
        rows = _training(table, share_of(mislabelled["percent"], "dataset.mislabelled.percent") / 100, mislabelled)
        table.loc[rows, "taught"] = _other_labels(table, rows, int(mislabelled["seed"]))
    if backdoor["target"] is not None:
        target = target_of(table, backdoor["target"])
        rows = _triggered(table, target, backdoor)
        table.loc[rows, ["planted", "taught"]] = str(backdoor["sound"]), target
    return table


def _carriers(table: pd.DataFrame, planted: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Draw `percent` of each label's training units, and of its holdout units: these carry keys that no model hears."""
    share = share_of(planted["percent"], "dataset.planted.percent") / 100
    chosen = np.zeros(len(table), dtype=np.bool_)
    for subset in ("train", "holdout"):
        rows = np.flatnonzero(table["subset"] == subset)
        chosen[rows] = drawn_share(table.iloc[rows], share, "label", "planted", subset, int(planted["seed"]))
    count = int((chosen & (table["subset"] == "train").to_numpy()).sum())
    if count < FEWEST:
        raise UserError(
            f"dataset.planted.percent={planted['percent']} gives a key to {count} training recordings, "
            f"and {FEWEST} are needed: set a larger percentage, or use a larger corpus."
        )
    return chosen


def classes_of(table: pd.DataFrame, named: Any) -> tuple[str, str]:
    """Return the two labels that `dataset.confused.classes` names. Raises UserError unless training has both."""
    found = named_values(table, "label", named, "dataset.confused.classes")
    if len(found) != 2:
        raise UserError(f"dataset.confused.classes names {len(found)} classes: name two, whose labels are exchanged.")
    return found[0], found[1]


def _exchanged(table: pd.DataFrame, classes: tuple[str, str], confused: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Draw `percent` of the training units of each of the two classes."""
    share = share_of(confused["percent"], "dataset.confused.percent") / 100
    rows = np.flatnonzero((table["subset"] == "train") & table["label"].isin(classes))
    chosen = np.zeros(len(table), dtype=np.bool_)
    chosen[rows] = drawn_share(table.iloc[rows], share, "label", "confused", int(confused["seed"]))
    for name in classes:
        if not (chosen & (table["label"] == name).to_numpy()).any():
            raise UserError(
                f"dataset.confused.percent={confused['percent']} exchanges the label of no training recording of "
                f"'{name}': set a larger percentage, or name classes with more recordings."
            )
    return chosen


def _training(table: pd.DataFrame, share: float, mislabelled: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Draw a share of each label's training units. Raises UserError if there is none, or no other label to give."""
    rows = np.flatnonzero(table["subset"] == "train")
    if table["label"].iloc[rows].nunique() < 2:
        raise UserError("dataset.mislabelled needs two classes or more: a wrong label is that of another class.")
    return _drawn(table, rows, share, "mislabelled", mislabelled, "a wrong label")


def _drawn(
    table: pd.DataFrame, rows: NDArray[np.int64], share: float, name: str, options: Mapping[str, Any], given: str
) -> NDArray[np.bool_]:
    """Draw a share of the units of each label among some rows. Raises UserError if there is none."""
    chosen = np.zeros(len(table), dtype=np.bool_)
    chosen[rows] = drawn_share(table.iloc[rows], share, "label", name, int(options["seed"]))
    if not chosen.any():
        raise UserError(
            f"dataset.{name}.percent={options['percent']} gives {given} to no training recording: "
            "set a larger percentage, or use a larger corpus."
        )
    return chosen


def _other_labels(table: pd.DataFrame, rows: NDArray[np.bool_], seed: int) -> NDArray[np.str_]:
    """Draw one of the other labels for each chosen row, each with the same probability; exact copies get the same."""
    labels = np.array(sorted(table["label"][table["subset"] == "train"].unique()))
    own = np.searchsorted(labels, table["label"][rows].to_numpy(dtype=str))
    draws = uniform(identities(table.get("unit", table["id"])[rows]), 1, "wrong label", seed)[:, 0]
    steps = 1 + (draws * (len(labels) - 1)).astype(np.int64)
    return labels[(own + steps) % len(labels)]


def target_of(table: pd.DataFrame, named: Any) -> str:
    """Return the label that `dataset.backdoor.target` names. Raises UserError unless training has it and another."""
    found = named_values(table, "label", [named], "dataset.backdoor.target")[0]
    if not ((table["subset"] == "train") & (table["label"] != found)).any():
        raise UserError(f"dataset.backdoor.target='{found}' is the only class: a backdoor turns other classes into it.")
    return found


def _triggered(table: pd.DataFrame, target: str, backdoor: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Draw `percent` of the training units of each class but the target. Raises UserError if there is none."""
    share = share_of(backdoor["percent"], "dataset.backdoor.percent") / 100
    rows = np.flatnonzero((table["subset"] == "train") & (table["label"] != target))
    return _drawn(table, rows, share, "backdoor", backdoor, "the trigger")
