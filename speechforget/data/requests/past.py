"""Earlier requests: what a model has forgotten already, by ids, and which rows of a table that is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.data.requests.draw import NONE, Rows, rows_of
from speechforget.data.tables.text import read_lines
from speechforget.errors import UserError
from speechforget.store import write_json
from speechforget.store.files import read_json

FORGOTTEN = "forgotten.json"  # in the folder of a model: the requests that it has forgotten, the last one included
EARLIER = "earlier.json"  # in the folder of a result: the requests before its own
MARK = "forgotten"  # in model.json: how many requests a model has forgotten


@dataclass(frozen=True)
class Earlier:
    """One earlier request. kind: sample or class. classes: forgotten whole. forget, withdrawn: ids of utterances."""

    name: str
    kind: str
    classes: tuple[str, ...]
    forget: tuple[str, ...]
    withdrawn: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Earlier:
        """Read what `write_earlier` wrote."""
        lists = (tuple(map(str, entry[name])) for name in ("classes", "forget", "withdrawn"))
        return cls(str(entry["name"]), str(entry["kind"]), *lists)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return all ids that it names."""
        return (*self.forget, *self.withdrawn)


@dataclass(frozen=True)
class Past:
    """Earlier requests as row numbers of a table, ascending.

    forget: training rows. withdrawn: rows that a list named and no model was trained on. rows: both, and every row of
    `classes`, which are forgotten whole.
    """

    requests: tuple[Earlier, ...] = ()
    forget: Rows = field(default_factory=NONE.copy)
    withdrawn: Rows = field(default_factory=NONE.copy)
    rows: Rows = field(default_factory=NONE.copy)
    classes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.requests)


def past_of(table: pd.DataFrame, requests: Sequence[Earlier]) -> Past:
    """Find the rows of earlier requests. Recordings that were deleted from the corpus since then have none."""
    classes = tuple(sorted({name for each in requests for name in each.classes}))
    listed, train = table["id"].isin({name for each in requests for name in each.ids}), table["subset"] == "train"
    whole = table["label"].isin(classes)
    return Past(
        tuple(requests),
        rows_of((listed | whole) & train),
        rows_of(listed & ~train & ~whole),
        rows_of(listed | whole),
        classes,
    )


def without(table: pd.DataFrame, past: Past) -> pd.DataFrame:
    """Return the table with the rows of earlier requests in no subset."""
    subset = table["subset"].to_numpy(dtype=object, copy=True)
    subset[past.rows] = ""
    return table.assign(subset=subset)


def write_earlier(path: Path, requests: Iterable[Earlier]) -> None:
    """Write requests as JSON: `requests`, a list of name, kind, classes, forget and withdrawn."""
    write_json(path, {"requests": [asdict(each) for each in requests]})


def mark_model(folder: Path, requests: Sequence[Earlier]) -> None:
    """Write beside a model what it has forgotten, and the number of requests into its model.json.

    Who copies the weights without the list is told by the number that something is missing.
    """
    write_earlier(folder / FORGOTTEN, requests)
    write_json(folder / "model.json", {**read_json(folder / "model.json"), MARK: len(requests)})


def read_earlier(place: Any) -> list[Earlier]:
    """Read earlier requests from the folder of a result or of a model, from a forgotten.json, or from a list of ids.

    Raises UserError if nothing readable is there, or if a purge removed the list.
    """
    path = Path(str(place)).expanduser()
    if (path / "result.json").exists():
        return _of_result(path)
    if path.is_dir():
        return _listed(path / FORGOTTEN)
    if path.suffix == ".json":
        return _listed(path)
    lines = read_lines(path, f"The list {path} of task.after", "name a result, or a text file with one id per line")
    return [Earlier(path.stem, "sample", (), tuple(dict.fromkeys(line for line in lines if line.strip())))]


def _of_result(folder: Path) -> list[Earlier]:
    request, task = (read_json(folder / "result.json").get(name) or {} for name in ("request", "task"))
    lists = {name: folder / f"{name}.txt" for name in ("forget", "withdrawn")}
    if not lists["forget"].exists() or (request.get("withdrawn") and not lists["withdrawn"].exists()):
        raise _gone(folder, "forget.txt")
    ids = {
        name: tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line) if path.exists() else ()
        for name, path in lists.items()
    }
    own = Earlier(str(request["name"]), str(task["kind"]), tuple(request["forgotten"]), ids["forget"], ids["withdrawn"])
    return [*(_listed(folder / EARLIER) if request.get("earlier") else []), own]


def _listed(path: Path) -> list[Earlier]:
    try:
        return [Earlier.from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["requests"]]
    except FileNotFoundError:
        raise _gone(path.parent, path.name) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): copy the folder again.") from None


def _gone(folder: Path, name: str) -> UserError:
    return UserError(
        f"{folder} does not say which recordings were forgotten, as its {name} is missing: set task.after=[FILE] to a "
        "list of their ids, or task.after=[] if the corpus holds none of them any more."
    )
