"""Read the graph of all artefacts below an output folder.

`inputs.json` of each artefact holds the keys of its parents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.store.folder import KEY_DIGITS
from speechforget.store.holders import Record, who_holds
from speechforget.store.keys import key_of
from speechforget.store.locks import lock_file
from speechforget.store.manifest import DONE, damage, read_done

# In the order of the pipeline; other stages follow.
STAGES: tuple[str, ...] = (
    "split",
    "kept_epoch",
    "original",
    "oracle",
    "importance",
    "unlearned",
    "scores",
    "attack",
    "untrained",
    "audit",
    "power",
    "result",
    "sequence",
)
RESULT = "result"
# No other artefact depends on these, or only the second on the first: they are what a user asked for.
ASKED = (RESULT, "sequence")
# No result depends on these stages. They spare the next run work, and are kept as long as the parent of this stage.
SPARE = {"importance": "original", "kept_epoch": "original"}
# Folders of an output that hold no artefacts.
OTHERS = {"cache", "sweeps", "peers", "running"}
FOLDER = re.compile(rf"(?P<name>.+)-(?P<digits>[0-9a-f]{{{KEY_DIGITS}}})")
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass
class Node:
    """Describe one artefact as found on disk.

    key: computed from its inputs; None if they cannot be read. size: bytes. seconds: from its cost.
    state: done, damaged, in use (a process builds it) or unfinished. holder: the record of that process.
    results: number of results that depend on it.
    """

    folder: Path
    stage: str
    name: str
    digits: str
    inputs: dict[str, Any] | None
    key: str | None
    state: str
    size: int
    seconds: float | None
    holder: Record | None = None
    problems: list[str] = field(default_factory=list)
    parents: list[Node] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    results: int = 0

    @property
    def is_root(self) -> bool:
        """Return whether the ancestors must be kept: for finished results, and for artefacts being built."""
        return self.state == "in use" or (self.stage in ASKED and self.state != "unfinished")


def read_graph(output: Path) -> list[Node]:
    """Read every artefact below `output`, in the order of the pipeline, with parents and children.

    Raises UserError if there is no such folder.
    """
    if not output.is_dir():
        raise UserError(
            f"There is no folder '{output}': pass the output folder of your runs with --output (default: outputs)."
        )
    nodes = [node for stage in _stages(output) for node in _read_stage(stage)]
    _connect(nodes)
    return nodes


def is_output(asked: str) -> bool:
    """Return whether a word names an output folder, not an artefact's folder or the first digits of a key."""
    folder = Path(asked)
    return folder.is_dir() and not FOLDER.fullmatch(folder.resolve().name) and not re.fullmatch("[0-9a-f]+", asked)


def _stages(output: Path) -> list[Path]:
    found = [
        path for path in output.iterdir() if path.is_dir() and path.name not in OTHERS and not path.name.startswith(".")
    ]
    order = {name: number for number, name in enumerate(STAGES)}
    return sorted(found, key=lambda path: (order.get(path.name, len(STAGES)), path.name))


def _read_stage(stage: Path) -> Iterator[Node]:
    for folder in sorted(stage.iterdir()):
        found = FOLDER.fullmatch(folder.name)
        if found and folder.is_dir():
            yield read_node(folder, found["name"], found["digits"])


def read_node(folder: Path, name: str, digits: str) -> Node:
    """Read one artefact, without parents and children."""
    inputs, problem = _read_inputs(folder)
    key = key_of(folder.parent.name, inputs) if inputs is not None else None
    holder = who_holds(lock_file(folder))
    record = read_done(folder)
    problems = [] if record is None else [f"{name} {what}" for name, what in damage(folder, record)]
    if record is not None:
        problems += [problem] if problem else []
        problems += named_otherwise(digits, key, record["key"])
    state = (
        "damaged" if problems else "done" if record is not None else "in use" if holder is not None else "unfinished"
    )
    return Node(
        folder,
        folder.parent.name,
        name,
        digits,
        inputs,
        key,
        state,
        folder_size(folder),
        _seconds(folder),
        holder,
        problems,
    )


def named_otherwise(digits: str, key: str | None, recorded: str) -> list[str]:
    """List the problems if inputs, DONE and the name of the folder give different keys."""
    if key is None:
        return []
    wrong = (
        []
        if key == recorded
        else [f"{DONE} records the key {recorded[:KEY_DIGITS]}, inputs.json gives {key[:KEY_DIGITS]}"]
    )
    return wrong + (
        []
        if key.startswith(digits)
        else [f"inputs.json gives the key {key[:KEY_DIGITS]}, the folder is named {digits}"]
    )


def _read_inputs(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    try:
        recorded = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        inputs = recorded["inputs"]
        if recorded["stage"] != folder.parent.name or not isinstance(inputs, dict):
            return None, "inputs.json names another stage"
    except FileNotFoundError:
        return None, "inputs.json is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"inputs.json cannot be read ({type(error).__name__})"
    return inputs, None


def folder_size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder. Files that vanish meanwhile count nothing."""
    size = 0
    for each in [path] if path.is_file() else path.rglob("*"):
        try:
            size += each.lstat().st_size if not each.is_dir() else 0
        except FileNotFoundError:
            continue
    return size


def _seconds(folder: Path) -> float | None:
    try:
        return float(json.loads((folder / "cost.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keys_in(value: Any) -> Iterator[str]:
    """Yield every string of 64 hexadecimal digits in a JSON value."""
    if isinstance(value, str):
        yield from [value] if KEY.fullmatch(value) else []
    elif isinstance(value, dict):
        for item in value.values():
            yield from keys_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_in(item)


def _connect(nodes: list[Node]) -> None:
    by_key: dict[str, list[Node]] = {}
    for node in nodes:
        by_key.setdefault(node.key or "", []).append(node)
    for node in nodes:
        for key in dict.fromkeys(keys_in(node.inputs)):
            for parent in by_key.get(key, []):
                if parent is not node:
                    node.parents.append(parent)
                    parent.children.append(node)
    for node in nodes:
        if node.stage == RESULT and node.state != "unfinished":
            for other in ancestors([node]):
                other.results += other is not node


def ancestors(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes and all their ancestors."""
    found: dict[int, Node] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += node.parents
    return list(found.values())


def needed(roots: Iterable[Node]) -> list[Node]:
    """Return what must be kept for `roots`: their ancestors, and finished artefacts that spare the next run work."""
    kept = ancestors(roots)
    spared = [
        child
        for node in kept
        for child in node.children
        if SPARE.get(child.stage) == node.stage and child.state in ("done", "damaged")
    ]
    return ancestors([*kept, *spared])


def find(nodes: list[Node], asked: str) -> Node:
    """Find the artefact with these first digits of a key, or this folder. Raises UserError if none or several match."""
    digits = asked.rstrip("/").rpartition("/")[2]
    named = [node for node in nodes if node.folder.name == digits]
    found = named or [
        node for node in nodes if re.fullmatch("[0-9a-f]+", digits) and (node.key or node.digits).startswith(digits)
    ]
    if not found:
        raise UserError(
            f"No artefact is named '{asked}': give the first digits of a key, or a folder, "
            "as `speechforget store ls` prints them."
        )
    if len(found) > 1:
        way_out = (
            "give one of these names" if len({node.key or node.digits for node in found}) == 1 else "give more digits"
        )
        raise UserError(
            f"'{asked}' names {len(found)} artefacts ({', '.join(node.folder.name for node in found[:5])}): {way_out}."
        )
    return found[0]
