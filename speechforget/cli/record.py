"""`speechforget record`: write the record of a folder, find a person's recordings in one, make a key to sign with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from speechforget.cli.arguments import run_command
from speechforget.record.build import build
from speechforget.record.canonical import read_record
from speechforget.record.find import find, read_ids
from speechforget.record.salt import read_salt
from speechforget.record.sign import make_keys, sign
from speechforget.record.write import write_record

EXAMPLES = """\
examples:
  speechforget record make outputs                               write outputs/record.json, without a page
  speechforget record make outputs --policy my_policy.yaml       with the thresholds of a policy
  speechforget record find outputs/report.html --salt outputs/record_salt --ids ids.txt
  speechforget record key my_key.pem                             make a key to sign with, and its public key

`speechforget report` writes the same record inside report.html. `speechforget verify` checks both."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "speechforget record",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="make | find | key")
    command = commands.add_parser("make", help="write record.json of the finished results below a folder")
    command.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    command.add_argument("--policy", type=Path, help="a yaml file of thresholds")
    command.add_argument(
        "--sign", type=Path, metavar="KEY", help="write record.sig, signed with this private key (PEM)"
    )
    command = commands.add_parser("find", help="tell which of a person's ids are in the requests of a record")
    command.add_argument("record", type=Path, help="report.html, or record.json")
    command.add_argument("--salt", type=Path, required=True, help="the file record_salt beside the report")
    command.add_argument("--ids", type=Path, required=True, help="text file, one utterance id a line")
    command = commands.add_parser("key", help="make an Ed25519 key to sign with")
    command.add_argument("key", type=Path, help="file of the private key; the public one gets the ending .pub.pem")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 after a user mistake, which one sentence explains, or if ids are in no request."""
    options = _arguments(arguments)
    return run_command(lambda: {"make": _make, "find": _find, "key": _key}[options.command](options))


def _make(options: argparse.Namespace) -> int:
    path = write_record(options.folder, build(options.folder, policy=options.policy))
    signature = [] if options.sign is None else [str(sign(path, options.sign))]
    print(f"Written: {', '.join([str(path), *signature])}")
    return 0


def _find(options: argparse.Namespace) -> int:
    ids = read_ids(options.ids)
    answers = find(read_record(options.record), read_salt(options.salt), ids)
    for answer in answers:
        never = f", {len(answer.withdrawn)} of them were never trained on" if answer.withdrawn else ""
        inside = len(ids) - len(answer.absent)
        told = f"{inside} of {len(ids)} recordings are in{never}" if answer.known else "its ids are not known any more"
        count = len(answer.results)
        print(f"{answer.name} ({count} result{'' if count == 1 else 's'}): {told}.")
        if inside and answer.absent:
            print(f"  not in: {', '.join(answer.absent)}")
    everywhere = set(ids).intersection(*(answer.absent for answer in answers))
    if everywhere:
        print(f"In no request: {', '.join(sorted(everywhere))}")
    return int(bool(everywhere))


def _key(options: argparse.Namespace) -> int:
    public, digits = make_keys(options.key)
    print(f"Written: {options.key} (keep it secret), {public} (give it to who verifies), SHA-256 {digits}")
    return 0
