"""Remove the copies of forgotten recordings, prove by search that they are gone, and write the ledger.

A purge that was killed is continued by the next one: `purging.json` in the folder of the result holds what to remove
and what to search for. It is removed when the search finds nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from speechforget.data.requests.past import EARLIER, FORGOTTEN
from speechforget.errors import UserError
from speechforget.record.copies import Copies, Copy, ids_of
from speechforget.record.hidden import hidden_path
from speechforget.record.ledger import LEDGER
from speechforget.record.needles import Hits, Needles
from speechforget.record.request import LISTS, keep_hashes, read_list
from speechforget.record.salt import own_salt
from speechforget.store.files import explained, read_json, write_json, write_text
from speechforget.store.gc import remove_path
from speechforget.store.graph import RESULT, Node
from speechforget.store.locks import locked_if_free
from speechforget.store.manifest import read_done, strike

STATE = "purging.json"
CANNOT = "{folder} cannot be removed ({reason}): ask its owner to remove it, then purge again."
WEIGHTS = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class Plan:
    """Hold a purge: of which result folders, what to search for, and what goes, stays and is not known.

    gone: entries of the ledger, each with `at`, its path below the output folder. note: why samples are not searched.
    """

    results: tuple[str, ...]
    needles: Needles
    gone: list[dict[str, Any]]
    kept: list[dict[str, str]]
    unknown: list[dict[str, str]]
    note: str = ""

    @property
    def size(self) -> int:
        """Return the bytes of all that goes."""
        return sum(int(entry["bytes"]) for entry in self.gone)


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of a purge that did not end; None if there is none. folder: of the result."""
    state = read_json(folder / STATE)
    if not state:
        return None
    needles = Needles(state["ids"], [bytes.fromhex(piece) for piece in state["pieces"]])
    return Plan(tuple(state["results"]), needles, *(state[part] for part in ("gone", "kept", "unknown", "note")))


def write_plan(folder: Path, plan: Plan) -> None:
    """Write what a repeated purge needs. Raises UserError if the folder cannot be written."""
    state = {
        "results": plan.results,
        "ids": list(plan.needles.ids),
        "pieces": [piece.hex() for piece in plan.needles.pieces],
        **{part: getattr(plan, part) for part in ("gone", "kept", "unknown", "note")},
    }
    with explained(folder / STATE, "Cannot write to {folder} ({reason}): a purge keeps its plan there."):
        write_json(folder / STATE, state)


def make_plan(
    output: Path, nodes: Sequence[Node], result: Node, copies: Copies, pieces: Sequence[bytes], note: str, derived: bool
) -> Plan:
    """Plan the purge of what `find_copies` found, and of small files in which a search finds the recordings.

    derived: also remove the delivered models of other requests that were trained with the recordings.
    """
    needles = Needles(ids_of(result.folder), pieces)
    removed = [*copies.remove, *copies.lists, *(copies.derived if derived else [])]
    removed += _beside(output, nodes, removed, needles)
    same = [node for node in nodes if node.stage == RESULT and _request(node) == _request(result)]
    return Plan(
        tuple(node.folder.relative_to(output).as_posix() for node in same),
        needles,
        [_entry(output, copy) for copy in removed],
        [*KEPT, *([] if derived else (_derived(output, copy) for copy in copies.derived))],
        [*UNKNOWN, *_elsewhere(result.folder)],
        note,
    )


def _request(node: Node) -> Any:
    return (node.inputs or {}).get("request")


KEPT = (
    {"what": "the unlearned models of the request", "why": "they are what the request asked for"},
    {"what": "the oracles of the request", "why": "they never heard the recordings"},
    {"what": "numbers of results, attacks and audits", "why": "they are averages over recordings and name none"},
    {"what": "names of folders, settings", "why": "they may name what was asked, as a speaker, but no recording"},
    {"what": "record and ledger", "why": "they hold salted hashes of the ids"},
)
UNKNOWN = (
    {"what": "the source corpus", "why": "it is the user's: remove the recordings there, too"},
    {"what": "backups, other output folders, exported models", "why": "nothing here lists them"},
)


def _derived(output: Path, copy: Copy) -> dict[str, str]:
    path = hidden_path(copy.path.relative_to(output).as_posix())
    return {"what": path, "why": f"it {copy.why}; --derived removes it"}


def _elsewhere(folder: Path) -> Iterator[dict[str, str]]:
    """Yield where the run of a result may have put copies outside of its output folder."""
    config = read_json(folder / "about.json").get("config") or {}
    logger = config.get("logger") or {}
    if "wandb" in str(logger.get("_target_")):
        more = [" and models and lists (logger.artifacts=files)"] if logger.get("artifacts") == "files" else []
        more += [" and recordings (logger.audio=true)"] if logger.get("audio") else []
        why = f"the run was tracked by W&B: look there for curves and tables{''.join(more)}"
        yield {"what": "runs uploaded to W&B", "why": why}
    if config and Path(config["cache"]) != Path(config["output"]) / "cache":
        yield {"what": "the cache outside of the output folder", "why": "other outputs may use it: remove it by hand"}


def _beside(output: Path, nodes: Sequence[Node], removed: Sequence[Copy], needles: Needles) -> Iterator[Copy]:
    """Yield files of sweeps, processes, trackers and reports in which a search finds the recordings."""
    gone = {copy.path for copy in removed}
    kept = [node.folder for node in nodes if node.folder not in gone]
    places = [output / name for name in ("sweeps", "peers", "report")]
    places += [folder / name for folder in kept for name in ("wandb", "csv", "tensorboard")]
    for place in places:
        yield from (Copy(path, "names the recordings") for path in needles.search(place).paths)
    for path in sorted(output.iterdir()):
        if path.is_file() and path.stat().st_size and needles.inside(path):
            yield Copy(path, "names the recordings; a report writes it again")


def _entry(output: Path, copy: Copy) -> dict[str, Any]:
    """Describe what goes: path, why, and of an artefact its key and the hashes of weights."""
    at = copy.path.relative_to(output).as_posix()
    found: dict[str, Any] = {"at": at, "path": hidden_path(at), "what": copy.why, "bytes": copy.size}
    if copy.node is not None and copy.path == copy.node.folder:
        files = (read_done(copy.path) or {"files": {}})["files"]
        weights = {
            name: {"sha256": held["sha256"], "size": held["bytes"]}
            for name, held in files.items()
            if name.endswith(WEIGHTS)
        }
        found |= {"stage": copy.node.stage, "key": copy.node.key, "files": weights}
    return found


def carry_out(output: Path, folder: Path, plan: Plan, lock: str = "flock") -> dict[str, Any]:
    """Remove what a plan names, search everything that is left, write the ledger, and return it.

    folder: of the result. Raises UserError if something is in use or cannot be removed; repeat the purge then.
    """
    salt = own_salt(output)
    for name in plan.results:
        keep_hashes(output / name, salt)
    for entry in plan.gone:
        path = output / entry["at"]
        if path.parent.parent.name == RESULT and path.suffix == ".txt":
            _strike(path, plan, salt_folder=output)
        elif path.name in (FORGOTTEN, EARLIER):
            _strike_earlier(path, salt_folder=output)
        elif path.exists():
            _remove(path, lock)
    hits = plan.needles.search(output, skip=[folder / STATE])
    ledger = _ledger(output, plan, hits)
    for name in plan.results:
        write_json(output / name / LEDGER, ledger)
    if not hits.paths:
        (folder / STATE).unlink()
    return ledger


def _remove(path: Path, lock: str) -> None:
    with explained(path, CANNOT), locked_if_free(path, lock) as claim:
        if claim is None:
            raise UserError(f"{path} is in use by another process: wait for its end, then purge again.")
        remove_path(path)


def _strike(path: Path, plan: Plan, salt_folder: Path) -> None:
    """Remove a list of a result; of the request of another result, only the lines that name the recordings."""
    folder, name = path.parent, path.stem
    of_other = folder.relative_to(salt_folder).as_posix() not in plan.results
    ids = set(plan.needles.ids)
    left = [line for line in read_list(folder, name) or [] if line not in ids] if of_other and name in LISTS else []
    with explained(path, CANNOT):
        if of_other and name in LISTS and path.exists():
            keep_hashes(folder, own_salt(salt_folder))
        strike(folder, path.name)
        if left:
            write_text(path, "".join(f"{line}\n" for line in left))


def _strike_earlier(path: Path, salt_folder: Path) -> None:
    """Remove the list of earlier requests of a model or a result; the folder of a result keeps their hashes."""
    if not path.parent.exists():
        return
    with explained(path, CANNOT):
        if path.parent.parent.name == RESULT:
            keep_hashes(path.parent, own_salt(salt_folder))
        strike(path.parent, path.name)


def _ledger(output: Path, plan: Plan, hits: Hits) -> dict[str, Any]:
    searchable = len(plan.needles.searchable)
    short = len(plan.needles.ids) - searchable
    notes = [plan.note] if plan.note else []
    notes += [f"{short} ids are too short to be told from other text"] if short else []
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "gone": [{name: value for name, value in entry.items() if name != "at"} for entry in plan.gone],
        "kept": plan.kept,
        "unknown": plan.unknown,
        "searched": {
            "files": hits.files,
            "bytes": hits.size,
            "ids": searchable,
            "recordings": len(plan.needles.pieces),
            "notes": notes,
        },
        "found": [hidden_path(path.relative_to(output).as_posix()) for path in hits.paths],
    }
