"""Read and write published requests, so that two papers forget the same utterances: one file per corpus, label, seed.

A list is UTF-8 text. Its head describes it in lines `# name: value` and ends with the line `# ids`. Then come ids, one
per line; the line `# k percent` follows the last id of the first k percent. A backslash is put before an id that
begins with # or a backslash.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.data.corpora.base import SUBSETS
from speechforget.data.requests.draw import Rows, first_rows, random_order, rows_of
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

HOME = Path(__file__).with_name("lists")  # the lists that come with speechforget
COMMAND = "python scripts/request_lists.py"
PERCENTS = range(1, 11)
IDS, MARK, ESCAPE = "# ids", " percent", "\\"
COUNTS, DIVISION, AUDIO, SETTINGS, MADE = "utterances", "division", "recordings", "settings", "command"


@dataclass(frozen=True)
class PublishedList:
    """A list. head: its description. ids: percent -> ids; a larger percent includes every smaller one."""

    path: Path
    head: Mapping[str, str]
    ids: Mapping[int, list[str]]


def write(table: pd.DataFrame, path: Path, seed: int, head: Mapping[str, str]) -> None:
    """Write the balanced draws of 1 to 10 percent by `seed` of a table from `split`. head: name -> one line."""
    lines = [f"# {name}: {value}" for name, value in {**head, **facts(table)}.items()] + [IDS]
    before: set[str] = set()
    order = random_order(table, True, seed)
    for percent in PERCENTS:
        drawn = table["id"].iloc[first_rows(table, order, percent)]
        lines += [
            f"{ESCAPE if identity[:1] in {'#', ESCAPE} else ''}{identity}"
            for identity in drawn
            if identity not in before
        ]
        lines.append(f"# {percent}{MARK}")
        before |= set(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def read(path: Path) -> PublishedList:
    """Read a list. Raises UserError for a file that is not one."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        begin = lines.index(IDS)
        head = dict(line.removeprefix("# ").split(": ", 1) for line in lines[:begin])
        ids: dict[int, list[str]] = {}
        so_far: list[str] = []
        for line in lines[begin + 1 :]:
            if line.startswith("#"):
                ids[int(line.removeprefix("# ").removesuffix(MARK))] = list(so_far)
            else:
                so_far.append(line.removeprefix(ESCAPE))
        if {COUNTS, DIVISION, AUDIO} - set(head) or not ids or so_far != ids[max(ids)]:
            raise ValueError("it is cut short")
    except (OSError, ValueError) as error:
        raise UserError(
            f"The list of requests {path} cannot be read ({error}): restore it, or make it again with {COMMAND}."
        ) from None
    return PublishedList(path, head, ids)


def rows(table: pd.DataFrame, task: Mapping[str, Any], seed: int) -> Rows:
    """Return the rows of `task`: the first task.percent of the list task.list.name of `seed` in the folder task.lists.

    Warns if the same ids have other recordings than those of the list.
    Raises UserError if there is no such list, or if the split of the list is not that of the table.
    """
    if not task["balanced"]:
        raise UserError(
            "Published requests are balanced: set task.balanced=true, or draw another request with task.by=random."
        )
    folder = HOME if task["lists"] is None else Path(str(task["lists"])).expanduser()
    found = read(_find(folder, str(task["list"]["name"]), seed))
    percent = float(task["percent"])
    if percent not in found.ids:
        raise UserError(
            f"task.percent is {task['percent']}, and {found.path.name} holds {min(found.ids)} to {max(found.ids)}: "
            "give a whole number."
        )
    _check(found, table)
    return rows_of(table["id"].isin(found.ids[int(percent)]))


def facts(table: pd.DataFrame) -> dict[str, str]:
    """Return what ties a list to a corpus: utterances per subset, a hash of the split, and a hash of the recordings."""
    counts = table["subset"].value_counts()
    division = table[["id", "subset", "label", "unit"]]
    recordings = table[["id", "sha1"]] if "sha1" in table else table[["id"]]
    return {
        COUNTS: ", ".join(f"{subset} {counts.get(subset, 0)}" for subset in SUBSETS),
        DIVISION: _hash(division),
        AUDIO: _hash(recordings),
    }


def _hash(table: pd.DataFrame) -> str:
    lines = sorted("\x1f".join(row) for row in table.astype(str).itertuples(index=False))
    return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()


def _find(folder: Path, name: str, seed: int) -> Path:
    path = folder / f"{name}-seed{seed}.txt"
    if not path.is_file():
        where = "comes with speechforget" if folder == HOME else f"is in {folder}"
        stems = [each.stem for each in folder.glob("*-seed*.txt")]
        of_name = [stem for stem in stems if stem.startswith(f"{name}-seed")]
        known = nearest(path.stem, of_name or {stem.rpartition("-seed")[0] for stem in stems})
        dataset, _, label = name.rpartition("-")
        make = f"{COMMAND} dataset={dataset} dataset.label={label} dataset.root=FOLDER task.lists=LISTS --seeds {seed}"
        raise UserError(
            f"No list of requests {path.stem} {where} ({known}): "
            f"make it with {make}, and name it with task.lists=LISTS."
        )
    return path


def _check(found: PublishedList, table: pd.DataFrame) -> None:
    here = facts(table)
    subset = table.set_index("id")["subset"]
    listed = found.ids[max(found.ids)]
    missing = [identity for identity in listed if subset.get(identity) != "train"]
    if here[DIVISION] != found.head[DIVISION] or missing:
        if here[COUNTS] != found.head[COUNTS]:
            what = f"it was made from {found.head[COUNTS]}, and this split has {here[COUNTS]}"
        else:
            what = "the subsets have the same sizes but other utterances, labels or copies"
        if missing:
            what += f"; {len(missing)} of its {len(listed)} utterances are not in training, first '{missing[0]}'"
        raise UserError(
            f"The list {found.path.name} is of another corpus or another split: {what}. "
            f"Use its settings, {found.head.get(SETTINGS, 'which it does not say')}, "
            f"or make lists with yours: {found.head.get(MADE, COMMAND)} ... task.lists=LISTS."
        )
    if here[AUDIO] != found.head[AUDIO]:
        logger.warning(
            "%s was made from other recordings with the same ids and the same split: "
            "the request is the published one, but its audio differs",
            found.path.name,
        )
