"""Inspect, verify and clean an output folder (`speechforget store`)."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from speechforget.cli.arguments import run_command
from speechforget.errors import UserError
from speechforget.store import graph, listing
from speechforget.store.gc import Removable, removable, remove
from speechforget.store.manifest import read_done
from speechforget.store.trial import try_locks
from speechforget.training.runtime import settle

EXAMPLES = """\
examples:
  speechforget store ls outputs                  list every artefact, in the order of the pipeline
  speechforget store show 3fa9                   show one artefact, its parents and its children
  speechforget store verify                      check every byte of all artefacts
  speechforget store verify --rebuild 3fa9       rebuild it in a scratch folder and compare bit by bit
  speechforget store gc                          remove what no result references; asks first
  speechforget store purge --request 5c1e        remove the copies of what a result's request named
  speechforget store locks outputs               test whether lock=flock works there or lock=lease is needed

Give a key by its first digits, or by its folder. docs/identity.md lists what a key contains."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "speechforget store",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--output", type=Path, default=Path("outputs"), help="output folder of the runs (default: outputs)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="ls | show | verify | gc | purge | locks")
    command = commands.add_parser("ls", parents=[output], help="list every artefact with its size, cost and state")
    command.add_argument("folder", nargs="?", type=Path, help="the same as --output")
    command.add_argument("--json", action="store_true", help="print JSON: whole keys, sizes in bytes, parents")
    command = commands.add_parser("show", parents=[output], help="show everything about one artefact")
    command.add_argument("key", help="first digits of the key, or the folder")
    command = commands.add_parser("verify", parents=[output], help="compare every file with its recorded size and hash")
    command.add_argument(
        "key", nargs="*", help="first digits of keys, folders of artefacts, or an output folder (default: all)"
    )
    command.add_argument("--rebuild", action="store_true", help="also rebuild them with the current code, and compare")
    command.add_argument(
        "--threads", type=int, help="with --rebuild: number of threads (default: as recorded, for equal bits)"
    )
    command.add_argument(
        "--tolerance", type=float, help="with --rebuild: allowed difference of numbers, as a share of the largest"
    )
    command = commands.add_parser(
        "gc", parents=[output], help="remove what no result references, unfinished folders, old locks and caches"
    )
    command.add_argument("folder", nargs="?", type=Path, help="the same as --output")
    command.add_argument(
        "--unreferenced", action="store_true", help="only finished artefacts that no result references"
    )
    command.add_argument(
        "--days", type=float, default=7, help="remove caches, sweeps and peers unused for this many days (default: 7)"
    )
    command.add_argument("--yes", action="store_true", help="remove without asking")
    command = commands.add_parser(
        "purge", parents=[output], help="remove the copies of what a request named, and prove it by search"
    )
    command.add_argument(
        "--request", required=True, metavar="RESULT", help="first digits of a result's key, or its folder"
    )
    command.add_argument(
        "--derived",
        action="store_true",
        help="also remove delivered models of other requests that were trained with them",
    )
    command.add_argument("--yes", action="store_true", help="remove without asking")
    command = commands.add_parser(
        "locks", help="test which lock a folder needs; run it on two machines at the same time"
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--seconds", type=float, default=30, help="longest time of the test (default: 30)")
    command.add_argument("--partner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command == "verify" and len(options.key) == 1 and graph.is_output(options.key[0]):
        options.folder, options.key = Path(options.key[0]), []
    if options.command != "locks" and getattr(options, "folder", None) is not None:
        options.output = options.folder
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 1 if an artefact is bad, or after a user mistake, which one sentence explains."""
    options = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    commands = {"ls": _ls, "show": _show, "verify": _verify, "gc": _gc, "purge": _purge, "locks": _locks}
    return run_command(lambda: commands[options.command](options))


def _ls(options: argparse.Namespace) -> int:
    nodes = graph.read_graph(options.output)
    print(listing.as_json(nodes) if options.json else listing.table(nodes))
    return 0


def _show(options: argparse.Namespace) -> int:
    print(listing.details(graph.find(graph.read_graph(options.output), options.key)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    nodes = graph.read_graph(options.output)
    chosen = [graph.find(nodes, key) for key in options.key] or nodes
    finished = [node for node in chosen if read_done(node.folder) is not None]
    bad = 0
    for node in finished:
        faults = list(listing.faults(node))
        if options.rebuild and not faults:
            faults = _rebuilt(node, options)
        bad += bool(faults)
        if faults:
            print(f"{node.folder}: {'; '.join(faults)}", flush=True)
    left_out = len(chosen) - len(finished)
    done = "rebuilt" if options.rebuild else "checked"
    skipped = f", {left_out} unfinished skipped" if left_out else ""
    print(f"{len(finished)} artefacts {done}, {bad} bad{skipped}.")
    if withheld := sum(len((read_done(node.folder) or {}).get("withheld", ())) for node in finished):
        print(f"{withheld} files were withheld when this folder was handed over; their hashes are in DONE.")
    if bad and not options.rebuild:
        print("Remove the bad folders and repeat the run that built them: it builds them again.")
    return int(bool(bad))


def _rebuilt(node: graph.Node, options: argparse.Namespace) -> list[str]:
    """Rebuild an artefact, print how it compares, and return its problems."""
    settle()
    from speechforget.cli.rebuild import compare, rebuild

    with tempfile.TemporaryDirectory(prefix="speechforget-rebuild-") as scratch:
        try:
            new = rebuild(node, options.output, Path(scratch), options.threads)
            same, sentence = compare(node, new, options.threads, options.tolerance)
        except UserError as error:
            same, sentence = False, str(error)
    if same:
        print(f"{node.folder}: {sentence}", flush=True)
    return [] if same else [sentence]


def _gc(options: argparse.Namespace) -> int:
    chosen, spared = removable(options.output, options.unreferenced, options.days)
    for each in chosen:
        print(f"{listing.size(each.size):>8}  {each.path}  ({each.reason})")
    if spared:
        print(
            f"{spared} more unreferenced artefacts are kept: they are younger than {options.days:g} days, "
            "and a running process may need them."
        )
    if not chosen:
        print("There is nothing to remove.")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            print("Nothing was removed: there is no terminal to ask; add --yes to remove this.", file=sys.stderr)
            return 1
        if input(f"Remove {_count(chosen)}? [y/N] ").strip().lower() not in {"y", "yes"}:
            print("Nothing was removed.")
            return 0
    gone, kept = remove(options.output, chosen)
    for each in kept:
        print(f"Kept {each.path}: a process now needs it or builds it.")
    print(f"Removed {_count(gone)}.")
    return 0


def _purge(options: argparse.Namespace) -> int:
    settle()
    from speechforget.cli.purge import purge

    return purge(options.output, options.request, options.yes, options.derived)


def _count(chosen: Sequence[Removable]) -> str:
    sizes = sum(each.size for each in chosen)
    folders = sum(each.path.suffix not in {".lock", ".holder"} for each in chosen)
    files = len(chosen) - folders
    parts = [f"{folders} folder{'' if folders == 1 else 's'}"] if folders else []
    parts += [f"{files} lock file{'' if files == 1 else 's'}"] if files else []
    return f"{' and '.join(parts) or 'nothing'}, {listing.size(sizes)}"


def _locks(options: argparse.Namespace) -> int:
    return try_locks(options.folder, options.seconds, options.partner)
