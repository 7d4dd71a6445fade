"""`speechforget store purge`: remove the copies of forgotten recordings, and prove it by search."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.record.copies import find_copies, ids_of
from speechforget.record.ledger import read_ledger
from speechforget.record.purge import Plan, carry_out, make_plan, read_plan, write_plan
from speechforget.stages.pieces import pieces
from speechforget.store import graph, listing
from speechforget.store.files import read_json

SHOWN = 20


def purge(output: Path, asked: str, yes: bool, derived: bool) -> int:
    """List the copies of what a result's request names, ask, remove them, search, and write the ledger.

    Returns 1 if something is left that names the recordings. Raises UserError.
    """
    nodes = graph.read_graph(output)
    result = graph.find(nodes, asked)
    if result.stage != graph.RESULT or result.state == "unfinished":
        raise UserError(f"{result.folder} is no finished result: name one, as `speechforget store ls` prints them.")
    config = read_json(result.folder / "about.json").get("config") or {}
    plan = read_plan(result.folder)
    if plan is None:
        if ledger := read_ledger(result.folder):
            print(f"The request of {result.folder.name} was purged on {ledger['made']}: nothing is left to do.")
            return 0
        plan = _plan(output, nodes, result, config, derived)
        if not _agreed(plan, yes):
            return 0 if sys.stdin.isatty() else 1
        write_plan(result.folder, plan)
    else:
        print(f"An earlier purge of {result.folder.name} did not end; this one continues it.")
    ledger = carry_out(output, result.folder, plan, config.get("lock", "flock"))
    return _tell(ledger, plan)


def _plan(output: Path, nodes: list[graph.Node], result: graph.Node, config: dict[str, Any], derived: bool) -> Plan:
    ids = set(ids_of(result.folder))
    if not ids:
        raise UserError(f"{result.folder} has no list of its request, so nothing can be searched for.")
    copies = find_copies(nodes, result, ids, output)
    found, note = pieces(config, output, ids) if config else ([], "no samples were searched for: no config is recorded")
    if copies.needing:
        print(f"{len(copies.needing)} other results need what would be removed; their numbers stay, but cannot be")
        print("computed again:")
        _list([node.folder.name for node in copies.needing])
    return make_plan(output, nodes, result, copies, found, note, derived)


def _agreed(plan: Plan, yes: bool) -> bool:
    for entry in plan.gone:
        print(f"{listing.size(entry['bytes']):>8}  {entry['at']}  ({entry['what']})")
    for entry in plan.kept:
        print(f"    kept  {entry['what']}: {entry['why']}")
    what = f"{len(plan.gone)} folders and files, {listing.size(plan.size)}"
    if yes:
        return True
    if not sys.stdin.isatty():
        print(f"Nothing was removed: there is no terminal to ask; add --yes to remove {what}.", file=sys.stderr)
        return False
    if input(f"Remove {what}? [y/N] ").strip().lower() in {"y", "yes"}:
        return True
    print("Nothing was removed.")
    return False


def _tell(ledger: Mapping[str, Any], plan: Plan) -> int:
    searched, found = ledger["searched"], ledger["found"]
    print(f"Removed {len(plan.gone)} folders and files, {listing.size(plan.size)}.")
    print(
        f"Searched {searched['files']} files ({listing.size(searched['bytes'])}) for {searched['ids']} ids "
        f"and pieces of {searched['recordings']} recordings."
    )
    for note in searched["notes"]:
        print(f"Note: {note}.")
    for entry in ledger["unknown"]:
        print(f"Not known: {entry['what']}: {entry['why']}.")
    if found:
        print(f"Still found in {len(found)} files:", file=sys.stderr)
        _list(found)
        print("Remove what names the recordings there, and run the same command again: it searches again.")
        return 1
    print("Found nothing. The ledger is purge.json in the folder of the result; the next report shows it.")
    return 0


def _list(names: list[str]) -> None:
    for name in names[:SHOWN]:
        print(f"  {name}")
    if len(names) > SHOWN:
        print(f"  ... and {len(names) - SHOWN} more")
