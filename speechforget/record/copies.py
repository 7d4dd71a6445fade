"""Find the copies of forgotten recordings that this project made below an output folder."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechforget.data.requests.past import EARLIER, FORGOTTEN
from speechforget.errors import UserError
from speechforget.record.request import LISTS, read_list
from speechforget.store.files import read_json
from speechforget.store.gc import CACHES
from speechforget.store.graph import RESULT, Node, ancestors, folder_size
from speechforget.store.holders import describe

SPLIT, KEPT_EPOCH, ORIGINAL, ORACLE, UNLEARNED, SCORES, IMPORTANCE = (
    *("split", "kept_epoch", "original", "oracle", "unlearned", "scores", "importance"),
)
TRAINED = (KEPT_EPOCH, ORIGINAL, ORACLE, UNLEARNED)
UNTRAINED = "untrained"
ANSWERS = (SPLIT, SCORES, UNTRAINED)  # stages with a row for each recording
TEXTS = ("forget", "withdrawn", "retain", "nonmembers", "speakers")  # lists of a result
WHY = {
    SPLIT: "lists the recordings and their labels",
    SCORES: "holds outputs, losses and embeddings of the recordings",
    UNTRAINED: "holds what models of random weights answer to the recordings",
    IMPORTANCE: "was computed from the recordings",
    KEPT_EPOCH: "is an earlier state of a model that was trained with the recordings, or with some of them",
    ORIGINAL: "was trained with the recordings, or with some of them",
    ORACLE: "may have been trained with the recordings: it left out another request",
    UNLEARNED: "was made from a model that was trained with the recordings, for another request",
}
OTHER = " (of a corpus, or a version of one, with the same ids)"


@dataclass(frozen=True)
class Copy:
    """Name something to remove: a folder or a file, why, and its artefact, if it is one."""

    path: Path
    why: str
    node: Node | None = None

    @property
    def size(self) -> int:
        """Return the bytes of the file, or of all files below the folder."""
        return folder_size(self.path)


@dataclass
class Copies:
    """Hold what a purge removes, and what it keeps.

    remove: whole folders. lists: files of results. derived: delivered models of other requests, trained with the
    recordings. needing: other results that need a part of it.
    """

    remove: list[Copy] = field(default_factory=list)
    lists: list[Copy] = field(default_factory=list)
    derived: list[Copy] = field(default_factory=list)
    needing: list[Node] = field(default_factory=list)


def ids_of(folder: Path) -> list[str]:
    """Return the ids that the request of a result names, whether models were trained on them or not."""
    return [identity for name in LISTS for identity in read_list(folder, name) or []]


def find_copies(nodes: list[Node], result: Node, ids: Set[str], output: Path) -> Copies:
    """Find all copies of the recordings `ids`, which the request of a result names, in an output folder.

    Raises UserError if a process builds something there, because it may need what has to go.
    """
    _refuse_busy(nodes)
    splits = {node.key: subsets for node in nodes if node.stage == SPLIT and (subsets := _subsets(node, ids))}
    trained = {key for key, subsets in splits.items() if subsets & {"train", "validation"}}
    forgetting = _requests(nodes)
    delivered = {model.folder: node for node in nodes if node.stage == RESULT for model in _delivered(node)}
    mine = {node.folder: node for node in ancestors([result])}
    corpora = {(node.inputs or {}).get("corpus") for node in mine.values() if node.stage == SPLIT}
    others = {node.key for node in nodes if node.stage == SPLIT and (node.inputs or {}).get("corpus") not in corpora}
    found = Copies()
    for node in nodes:
        inputs = node.inputs or {}
        if node.stage not in WHY:
            continue
        split = node.key if node.stage == SPLIT else inputs.get("split")
        imported = node.stage == ORIGINAL and "checkpoint" in inputs and node.folder in mine
        if split not in splits and not imported:
            continue
        copy = Copy(node.folder, WHY[node.stage] + (OTHER if split in others else ""), node)
        if node.stage in ANSWERS:
            found.remove.append(copy)
        elif imported or (split in trained and _knows(node, ids, forgetting)):
            (found.derived if node.folder in delivered else found.remove).append(copy)
    found.remove += _caches(output)
    found.lists = [copy for node in nodes for copy in _lists(node, ids, splits)]
    gone = {copy.path for copy in (*found.remove, *found.lists)}
    found.needing = [node for node in nodes if node.stage == RESULT and node is not result and _needs(node, gone)]
    return found


def _subsets(split: Node, ids: Set[str]) -> set[str]:
    """Return the subsets of a split that hold some of the recordings."""
    path = split.folder / "utterances.csv"
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {row["subset"] for row in csv.DictReader(file) if row["id"] in ids}


def _requests(nodes: list[Node]) -> dict[str, set[str]]:
    """Map the hash of each request that a result names to its ids."""
    named = {str((node.inputs or {}).get("request")): ids_of(node.folder) for node in nodes if node.stage == RESULT}
    return {key: set(ids) for key, ids in named.items()}


def _knows(node: Node, ids: Set[str], forgetting: Mapping[str, set[str]]) -> bool:
    """Return whether a model may hold something of the recordings: yes, unless its request names all of them."""
    if node.stage == IMPORTANCE:
        return True
    known = forgetting.get(str((node.inputs or {}).get("without")), set()) | set(forgotten_ids(node.folder))
    return node.stage in TRAINED and not ids <= known


def _delivered(result: Node) -> Iterator[Node]:
    """Yield the model that a result delivers."""
    name = read_json(result.folder / "result.json").get("delivered", UNLEARNED)
    key = ((result.inputs or {}).get("models") or {}).get(name)
    yield from (node for node in ancestors([result]) if node.key == key)


def _refuse_busy(nodes: list[Node]) -> None:
    for node in nodes:
        if node.state == "in use":
            holder = describe(node.holder) if node.holder else "another process"
            raise UserError(f"{node.folder} is being built by {holder}: wait for its end, then purge.")


def _caches(output: Path) -> Iterator[Copy]:
    """Yield all caches of recordings: a cache does not say whose recordings it holds, and can be made again."""
    for kind, what in CACHES.items():
        for folder in sorted((output / "cache" / kind).glob("*")):
            if folder.is_dir():
                yield Copy(folder, f"holds {what}; what is left of the corpus is decoded again")


def forgotten_ids(folder: Path) -> list[str]:
    """Return the ids that the requests beside a model or a result name; none if there is no such list."""
    listed = (read_json(folder / name).get("requests") or [] for name in (FORGOTTEN, EARLIER))
    return [identity for found in listed for each in found for identity in (*each["forget"], *each["withdrawn"])]


def _lists(result: Node, ids: Set[str], splits: Mapping[str | None, Any]) -> Iterator[Copy]:
    """Yield the files of a result or model that name the recordings, and folders of trackers that no search reads."""
    if not ids.isdisjoint(forgotten_ids(result.folder)):
        found = (result.folder / name for name in (FORGOTTEN, EARLIER))
        yield from (Copy(path, "names the recordings", result) for path in found if path.exists())
    if result.stage != RESULT:
        return
    of_split = bool({node.key for node in ancestors([result])} & set(splits))
    for name in TEXTS:
        path = result.folder / f"{name}.txt"
        if path.exists() and (
            not ids.isdisjoint(read_list(result.folder, name) or []) or (name == TEXTS[-1] and of_split)
        ):
            yield Copy(path, "names the recordings or who speaks in them", result)


def _needs(result: Node, gone: Set[Path]) -> bool:
    return any(node.folder in gone for node in ancestors([result])) or any(
        path.parent == result.folder for path in gone
    )
