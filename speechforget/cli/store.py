"""`python -m speechforget.store`: what lies in an output folder, whether it is whole, and what could go."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from speechforget.errors import UserError
from speechforget.store import graph, listing
from speechforget.store.gc import Removable, removable, remove
from speechforget.store.manifest import read_done
from speechforget.store.trial import try_locks
from speechforget.terminal import print_anywhere
from speechforget.training.runtime import settle

EXAMPLES = """\
examples:
  python -m speechforget.store ls outputs                  every artefact, in the order of the pipeline
  python -m speechforget.store show 3fa9                   one of them: what it was made of, and what was made of it
  python -m speechforget.store verify                      every byte of all of them
  python -m speechforget.store verify --rebuild 3fa9       makes it again in a scratch folder, and compares bit by bit
  python -m speechforget.store gc                          what no result refers to; asks before it removes anything
  python -m speechforget.store locks outputs               whether lock=flock is right there, or lock=lease is needed

A key is given by its first digits, or as a folder. docs/identity.md says what is in it."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m speechforget.store",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--output", type=Path, default=Path("outputs"), help="where the runs wrote to (default: outputs)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="ls | show | verify | gc | locks")
    command = commands.add_parser("ls", parents=[output], help="list every artefact with its size, cost and state")
    command.add_argument("folder", nargs="?", type=Path, help="the same as --output")
    command.add_argument("--json", action="store_true", help="for programs: whole keys, sizes in bytes, parents")
    command = commands.add_parser("show", parents=[output], help="everything about one artefact")
    command.add_argument("key", help="first digits of its key, or its folder")
    command = commands.add_parser(
        "verify", parents=[output], help="compare every file with what was recorded when it was made"
    )
    command.add_argument(
        "key", nargs="*", help="first digits of keys, or folders, of artefacts or the output's own (default: all)"
    )
    command.add_argument(
        "--rebuild", action="store_true", help="also make them again, by today's code, and compare what comes out"
    )
    command.add_argument(
        "--threads", type=int, help="with --rebuild: threads to work with (default: as many as then, for equal bits)"
    )
    command.add_argument(
        "--tolerance", type=float, help="with --rebuild: how far numbers may be apart, as a share of the largest"
    )
    command = commands.add_parser(
        "gc", parents=[output], help="remove what no result refers to, unfinished folders, old locks and caches"
    )
    command.add_argument("folder", nargs="?", type=Path, help="the same as --output")
    command.add_argument("--unreferenced", action="store_true", help="only finished artefacts that no result refers to")
    command.add_argument(
        "--days", type=float, default=7, help="how long caches, sweeps and peers must have lain untouched (default: 7)"
    )
    command.add_argument("--yes", action="store_true", help="remove without asking")
    command = commands.add_parser(
        "locks", help="find out which lock a folder needs; to be run on two machines at the same time"
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--seconds", type=float, default=30, help="at most so long (default: 30)")
    command.add_argument("--partner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command == "verify" and len(options.key) == 1 and graph.is_output(options.key[0]):
        options.folder, options.key = Path(options.key[0]), []
    if options.command != "locks" and getattr(options, "folder", None) is not None:
        options.output = options.folder
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code is 1, with one sentence, where something is bad or the user can mend something."""
    print_anywhere()
    options = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return {"ls": _ls, "show": _show, "verify": _verify, "gc": _gc, "locks": _locks}[options.command](options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 0


def _ls(options: argparse.Namespace) -> int:
    nodes = graph.read_graph(options.output)
    print(listing.as_json(nodes) if options.json else listing.table(nodes))
    return 0


def _show(options: argparse.Namespace) -> int:
    print(listing.story(graph.find(graph.read_graph(options.output), options.key)))
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
    done = "made again" if options.rebuild else "looked at"
    print(
        f"{len(finished)} artefacts {done}, {bad} bad" + (f", {left_out} unfinished left out" if left_out else "") + "."
    )
    if bad and not options.rebuild:
        print("Remove the bad folders and run the same command again: it makes them anew.")
    return int(bool(bad))


def _rebuilt(node: graph.Node, options: argparse.Namespace) -> list[str]:
    """Makes an artefact again and prints how it compares; gives what is wrong with it."""
    settle()
    from speechforget.cli.rebuild import compared, rebuild

    with tempfile.TemporaryDirectory(prefix="speechforget-rebuild-") as scratch:
        try:
            same, sentence = compared(
                node, rebuild(node, options.output, Path(scratch), options.threads), options.threads, options.tolerance
            )
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
            f"{spared} more are younger than {options.days:g} days and left alone, since somebody is making something here that may need them."
        )
    if not chosen:
        print("There is nothing to remove.")
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            print("Nothing was removed: there is no terminal to ask at; add --yes to remove this.", file=sys.stderr)
            return 1
        if input(f"Remove {_count(chosen)}? [y/N] ").strip().lower() not in {"y", "yes"}:
            print("Nothing was removed.")
            return 0
    gone, kept = remove(options.output, chosen)
    for each in kept:
        print(f"Kept {each.path}: somebody needs it, or is making it, by now.")
    print(f"Removed {_count(gone)}.")
    return 0


def _count(chosen: Sequence[Removable]) -> str:
    sizes = sum(each.size for each in chosen)
    folders = sum(each.path.suffix not in {".lock", ".holder"} for each in chosen)
    files = len(chosen) - folders
    parts = [f"{folders} folder{'' if folders == 1 else 's'}"] if folders else []
    parts += [f"{files} lock file{'' if files == 1 else 's'}"] if files else []
    return f"{' and '.join(parts) or 'nothing'}, {listing.size(sizes)}"


def _locks(options: argparse.Namespace) -> int:
    return try_locks(options.folder, options.seconds, options.partner)
