"""A request: which utterances must be forgotten, and what earlier requests leave of the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speechforget.data.requests.attribute import KIND, Attribute
from speechforget.data.requests.draw import NONE, Rows, rows_of
from speechforget.data.requests.past import EARLIER, Earlier, Past, write_earlier

VALUES = "attribute.txt"  # the value of the removed attribute in each row of the split, one a line
SEVERAL = "several-requests"  # names what was forgotten in any order or at once


@dataclass(frozen=True)
class Request:
    """A request as row numbers in the table of `split`, ascending.

    forget: training rows that must be forgotten. nonmembers: holdout rows that match them, for attacks.
    forgotten: labels that are forgotten whole; none for samples. name: short, fit for a file name.
    withdrawn: named rows that no model was trained on, and all rows of earlier requests; they are in no metric, in no
    validation set and not in retain.
    matched: a sentence about the non-members. listed: whether the request is a list of ids.
    past: the earlier requests. keep_forget: whether the method may use their forgotten utterances, too.
    attribute: what a request for an attribute removes, whose recordings stay; then `forget` is only what an oracle is
    trained without. counterparts: what it is trained on in their place.
    """

    forget: Rows
    nonmembers: Rows
    forgotten: tuple[str, ...]
    name: str
    withdrawn: Rows = field(default_factory=NONE.copy)
    matched: str = ""
    listed: bool = False
    past: Past = field(default_factory=Past)
    keep_forget: bool = False
    attribute: Attribute | None = None
    counterparts: Rows = field(default_factory=NONE.copy)

    def retain(self, table: pd.DataFrame) -> Rows:
        """Return the training rows that neither this request nor an earlier one forgets."""
        return np.setdiff1d(rows_of(table["subset"] == "train"), np.union1d(self.forget, self.withdrawn))

    @property
    def unheard(self) -> Rows:
        """Return the rows that this request names and no model was trained on."""
        return np.setdiff1d(self.withdrawn, self.past.rows)

    def digest(self, table: pd.DataFrame) -> str:
        """Hash the ids of what it forgets, of what is withdrawn with it, and of counterparts."""
        heard = [self.counterparts] if self.attribute is not None else []
        return digest_of(table, self.forget, *([self.withdrawn] if len(self.withdrawn) else []), *heard)

    @property
    def of_oracle(self) -> Request:
        """Return what an oracle is trained without: this request and all earlier ones, whatever their order."""
        if not self.past:
            return self
        return Request(
            np.union1d(self.forget, self.past.forget),
            NONE.copy(),
            tuple(sorted({*self.forgotten, *self.past.classes})),
            SEVERAL,
            np.union1d(self.unheard, self.past.withdrawn),
        )

    @property
    def of_method(self) -> Request:
        """Return what a method unlearns: this request, and with `keep_forget` all earlier ones again."""
        if not (self.past and self.keep_forget):
            return self
        return replace(
            self,
            forget=np.union1d(self.forget, self.past.forget),
            forgotten=tuple(sorted({*self.forgotten, *self.past.classes})),
            withdrawn=np.setdiff1d(self.withdrawn, self.past.forget),
        )

    def described(self, table: pd.DataFrame) -> Earlier:
        """Return the request by ids, as later requests need it."""
        forget, unheard = (tuple(table["id"].iloc[rows]) for rows in (self.forget, self.unheard))
        if self.attribute is not None:
            return Earlier(self.name, KIND, (), (), ())
        return Earlier(self.name, "class" if self.forgotten else "sample", self.forgotten, forget, unheard)

    @property
    def notes(self) -> list[str]:
        """Return what readers must know about a request that is no random draw."""
        if self.attribute is not None:
            return [self._removed(self.attribute.column)]
        gone = f"{len(self.unheard)} listed recordings were not trained on: no metric and no validation set has them."
        found = [*([gone] if len(self.unheard) else []), *([self.matched] if self.listed else [])]
        return [*found, *([self._earlier()] if self.past else [])]

    def _earlier(self) -> str:
        count, rows = len(self.past.requests), len(self.past.rows)
        asked = "1 earlier request stays" if count == 1 else f"{count} earlier requests stay"
        used = "used them again" if self.keep_forget else "did not use them"
        return (
            f"{asked} forgotten: {rows} recordings are in no retain set, validation set or metric of this run, and "
            f"the method {used} (task.keep_forget={str(self.keep_forget).lower()})."
        )

    def _removed(self, column: str) -> str:
        heard = f", with {len(self.counterparts)} counterparts in their place" if len(self.counterparts) else ""
        return (
            f"The request removes {column}; its recordings stay. forget holds the {len(self.forget)} training "
            f"recordings that make {column} tell of the label: the oracle is trained without them{heard}. No attack on "
            "membership applies."
        )

    def to_json(self, table: pd.DataFrame) -> dict[str, Any]:
        """Return name, counts and classes for a result, without ids."""
        found: dict[str, Any] = {
            "name": self.name,
            "forget": len(self.forget),
            "retain": len(self.retain(table)),
            "nonmembers": len(self.nonmembers),
            "withdrawn": len(self.unheard),
            "matched": self.matched,
            "forgotten": list(self.forgotten),
        }
        if self.attribute is not None:
            return found | {KIND: self.attribute.column, "counterparts": len(self.counterparts)}
        if self.past:
            found |= {"earlier": [_counted(each) for each in self.past.requests], "keep_forget": self.keep_forget}
        return found


def digest_of(table: pd.DataFrame, *parts: Rows) -> str:
    """Hash the ids of rows, in the order of the table; parts are told apart."""
    ids = table["id"].to_numpy()
    lines = [line for rows in parts for line in ("", *ids[np.sort(rows)])][1:]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _counted(earlier: Earlier) -> Mapping[str, Any]:
    return {
        **{"name": earlier.name, "kind": earlier.kind, "classes": list(earlier.classes)},
        **{"forget": len(earlier.forget), "withdrawn": len(earlier.withdrawn)},
    }


def save(request: Request, table: pd.DataFrame, folder: Path) -> None:
    """Write forget.txt, retain.txt, nonmembers.txt and, if not empty, withdrawn.txt: UTF-8, one utterance id per line.

    forget.txt, or forget.txt and withdrawn.txt concatenated, can be used as a request by ids. Earlier requests, if
    there are any, are in earlier.json. A request for an attribute also has counterparts.txt, where it has some, and
    attribute.txt, the value of each row of the split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lists = {"forget": request.forget, "retain": request.retain(table), "nonmembers": request.nonmembers}
    more = {"withdrawn": request.unheard, "counterparts": request.counterparts}
    for name, rows in {**lists, **{name: rows for name, rows in more.items() if len(rows)}}.items():
        text = "".join(f"{identity}\n" for identity in table["id"].iloc[rows])
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    if request.attribute is not None:
        text = "".join(f"{value}\n" for value in request.attribute.values)
        (folder / VALUES).write_text(text, encoding="utf-8", newline="\n")
    if request.past:
        write_earlier(folder / EARLIER, request.past.requests)
