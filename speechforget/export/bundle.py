"""Hand a result over whole: copy it with every artefact that it depends on, into an output folder of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from speechforget.data.requests.past import EARLIER, FORGOTTEN
from speechforget.errors import UserError
from speechforget.export.staging import staged
from speechforget.store import provenance, read_done, write_json, write_text
from speechforget.store.graph import Node, ancestors, find, keys_in, read_graph
from speechforget.store.listing import faults
from speechforget.store.manifest import DONE

RECORD = "bundle.json"
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Files that list recordings by their ids.
LISTS = frozenset({"forget.txt", "retain.txt", "nonmembers.txt", "withdrawn.txt", "utterances.csv", FORGOTTEN, EARLIER})
TEXTS = frozenset({".txt", ".csv", ".json", ".yaml", ".log"})
PARENTS = ("models", "scores", "attacks", "audit", "power", "model", "split", "original")  # inputs that are keys
KNOWS = (
    "The original in this bundle was trained on the forgotten recordings, and score tables have a row for each of "
    "them: hand it over only to people who may have these."
)
NAMES = "Folders are named after the request, and configs hold paths of the machine that built them."
WITH_IDS = "Lists of recordings are included, the forgotten ones too: they are personal data."
WITHOUT_IDS = (
    "{count} files with ids of recordings were left out, because they are personal data (--with-ids includes them). "
    "Hashes of all other files can be verified; figures can be recomputed only with these lists."
)
README = """# A result of speechforget, with all that it depends on

`speechforget store verify --output FOLDER` compares every file with its recorded hash, `speechforget store ls FOLDER`
lists them, and `speechforget.load("FOLDER/{result}")` loads the delivered model.

{notes}
"""


def bundle(result: Path, target: Path, *, with_ids: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Copy a result and all its ancestors to the folder `target`; return the content of its bundle.json.

    with_ids: whether files that list recordings by id are copied; otherwise DONE names them as withheld, with their
    hashes. Nothing is left in `target` after an error. Raises UserError for a result that is not whole.
    """
    nodes = _whole(result)
    forgotten = _forgotten(result)
    with staged(target, RECORD, overwrite) as folder:
        copied = [_copy(node, folder, set() if with_ids else _withheld(node, forgotten)) for node in nodes]
        told = _record(nodes, copied)
        told["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        notes = "\n".join(f"- {note}" for note in told["notes"])
        write_text(folder / "README.md", README.format(result=told["result"], notes=notes))
        write_json(folder / RECORD, told)
    return told


def _whole(result: Path) -> list[Node]:
    """Return a result and its ancestors after comparing every byte. Raises UserError if one is missing or damaged."""
    if not (result / "result.json").exists():
        raise UserError(f"{result} is not a result: give the result folder that a run prints at its end.")
    everything = read_graph(result.resolve().parent.parent)
    node = find(everything, result.resolve().name)
    wanted = ancestors([node])
    found = {one.key for one in wanted}
    for one in wanted:
        problems = list(faults(one)) or (["unfinished"] if one.state in {"unfinished", "in use"} else [])
        if problems:
            raise UserError(f"{one.folder} cannot be handed over ({problems[0]}): repeat the run first.")
        for key in _keys_of_parents(one):
            if key not in found:
                raise UserError(f"{one.folder} depends on {key[:12]}, which is missing: repeat the run first.")
    chosen = set(map(id, wanted))
    return [one for one in everything if id(one) in chosen]


def _keys_of_parents(node: Node) -> Iterator[str]:
    for name in PARENTS:
        value = (node.inputs or {}).get(name)
        if node.stage not in {"original", "oracle"} or name != "model":  # there it is the config of a model
            yield from keys_in(value)


def _forgotten(result: Path) -> set[str]:
    """Return the ids of the forgotten and withdrawn recordings; empty where a bundle came without them."""
    lists = [result / f"{name}.txt" for name in ("forget", "withdrawn")]
    return {line for path in lists if path.exists() for line in path.read_text(encoding="utf-8").splitlines()}


def _withheld(node: Node, forgotten: Set[str]) -> set[str]:
    """Name the files of an artefact that list recordings, or that hold the id of a forgotten one."""
    names = set((read_done(node.folder) or {"files": {}})["files"])
    listed = {name for name in names if Path(name).name in LISTS}
    for name in names - listed:
        path = node.folder / name
        if path.suffix in TEXTS and path.name != "inputs.json" and not forgotten.isdisjoint(_words(path)):
            listed.add(name)
    return listed


def _words(path: Path) -> set[str]:
    """Return all strings in quotes, lines, and cells of lines of a text file."""
    found: set[str] = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found |= {line, line.strip().removeprefix("- "), *line.split(","), *QUOTED.findall(line)}
    return found


def _copy(node: Node, target: Path, withheld: set[str]) -> dict[str, Any]:
    """Copy the files of an artefact; the copy of DONE names what was withheld, with its hashes."""
    record = read_done(node.folder)
    assert record is not None
    folder = target / node.stage / node.folder.name
    held = {name: entry for name, entry in record["files"].items() if name not in withheld}
    for name in held:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(node.folder / name, folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    gone = {**record.get("withheld", {}), **{name: record["files"][name] for name in withheld}}
    told = {**record, "files": held, **({"withheld": gone} if gone else {})}
    write_text(folder / DONE, json.dumps(told, indent=1) + "\n")
    return gone


def _record(nodes: Sequence[Node], withheld: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    count = sum(map(len, withheld))
    about = provenance()
    return {
        "result": f"result/{nodes[-1].folder.name}",
        "key": nodes[-1].key,
        "artefacts": [
            {"stage": node.stage, "folder": node.folder.name, "key": node.key, "withheld": dict(gone)}
            for node, gone in zip(nodes, withheld, strict=True)
        ],
        "notes": [KNOWS, NAMES, WITHOUT_IDS.format(count=count) if count else WITH_IDS],
        "commit": about["commit"],
        "versions": about["versions"],
        "time": about["time"],
    }
