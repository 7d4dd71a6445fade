"""`speechforget verify report.html`: check a record against its files, and compute its numbers again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechforget.cli.arguments import run_command
from speechforget.errors import UserError
from speechforget.record.canonical import PAGE, read_record
from speechforget.record.check import Checked, check_attachments, check_evidence, check_root, schema
from speechforget.record.folders import Outputs
from speechforget.record.shared import expanded
from speechforget.record.sign import check_signature

EXAMPLES = """\
examples:
  speechforget verify outputs/report.html                            check everything, and compute the numbers again
  speechforget verify outputs/report.html --signer their.pub.pem     also say whom to trust
  speechforget verify record.json --folder outputs                   the files are in another folder
  speechforget verify outputs/report.html --hashes                   compute nothing again

The exit code is 0 if nothing is wrong, else 1. Files that are not here (moved or purged) are counted.
docs/record.md says what each check shows."""
SHOWN = 20  # problems of one kind
EQUAL = "reproduced"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "speechforget verify",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("record", type=Path, help="report.html, or record.json")
    parser.add_argument("--folder", type=Path, help="folder that the record is about (default: that of the record)")
    parser.add_argument("--signer", type=Path, metavar="PUBLIC_KEY", help="the public key (PEM) that you trust")
    parser.add_argument("--hashes", action="store_true", help="check hashes and signature only")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if something is wrong, or after a user mistake, which one sentence explains."""
    options = _arguments(arguments)
    return run_command(lambda: verify(options.record, options.folder, options.signer, options.hashes))


def verify(path: Path, folder: Path | None = None, signer: Path | None = None, hashes_only: bool = False) -> int:
    """Check a record, print what was found, and return 1 if something is wrong."""
    record = read_record(path)
    if folder is not None and not folder.is_dir():
        raise UserError(f"There is no folder '{folder}': name the output folder that the record is about.")
    outputs = Outputs(folder or path.parent)
    commit = record["speechforget"]["commit"] or "unknown"
    print(f"Record of {record['made']}, {_count(record['results'], 'result')}, made by commit {commit}.")
    wrong = _schema(record)
    if wrong:
        _tell(wrong)
        return 1
    wrong = [*_signature(path, signer), *_attachments(path, record), *check_root(record)]
    checked = check_evidence(record, outputs)
    _tell_evidence(record, checked)
    wrong += checked.problems
    _tell(wrong)
    differences = 0 if hashes_only else _results(record, outputs, checked)
    good = not wrong and not differences
    if good:
        print(f"Nothing is wrong{' with what is here' if checked.absent else ''}.")
    else:
        print(f"Wrong: {_count([*wrong, *range(differences)], 'problem')}.")
    return int(not good)


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _tell(problems: Sequence[str]) -> None:
    for problem in problems[:SHOWN]:
        print(f"Wrong: {problem}.")
    if len(problems) > SHOWN:
        print(f"Wrong: {len(problems) - SHOWN} more.")


def _schema(record: Mapping[str, Any]) -> list[str]:
    """Compare a record with the published schema, where the package jsonschema is installed."""
    try:
        import jsonschema
    except ImportError:
        print("Schema: name and version fit; the package jsonschema, which checks the rest, is not installed.")
        return []
    validator = jsonschema.Draft202012Validator(json.loads(schema().read_text(encoding="utf-8")))
    errors = sorted(validator.iter_errors(record), key=lambda error: error.json_path)
    print(f"Schema: {'fits' if not errors else 'does not fit'}.")
    return [f"the record does not fit its schema at {error.json_path}" for error in errors]


def _signature(path: Path, signer: Path | None) -> list[str]:
    try:
        found = check_signature(path, signer)
    except UserError as error:
        return [str(error).removesuffix(".")]
    if found is None:
        print("Signature: none, so nothing shows who made the record.")
        return [] if signer is None else [f"{path} is not signed, and --signer names a key"]
    if found.trusted:
        print(f"Signature: good, by the key of --signer (SHA-256 {found.fingerprint}).")
    else:
        print(f"Signature: good, by the key SHA-256 {found.fingerprint}. No key is trusted: --signer names one.")
    return []


def _attachments(path: Path, record: Mapping[str, Any]) -> list[str]:
    problems, count = check_attachments(path, record)
    if count:
        print(f"Attachments: {count} compared.")
    elif record["attachments"]:
        print("Attachments: not compared, because they are in the page, not in this file.")
    if path.suffix.lower() != ".json" and PAGE not in record["attachments"]:
        print("Page: the record does not vouch for the text around it.")
    return problems


def _tell_evidence(record: Mapping[str, Any], checked: Checked) -> None:
    root = record["evidence"]["root"]
    print(f"Evidence: {_count(range(checked.files), 'file')} compared, Merkle root {root}.")
    if checked.absent:
        what = _count(checked.absent, "file")
        print(f"Not here, moved or purged: {what}, of which only the record tells the hash.")


def _results(record: Mapping[str, Any], outputs: Outputs, checked: Checked) -> int:
    """Compute each result again, print one line for each, and return how many differ."""
    differ = 0
    for entry in expanded(record):
        lines = list(_result(entry, outputs, checked))
        differ += any(word != EQUAL for word, _ in lines)
        for word, line in lines:
            print(f"{entry['path']}: {line if word == EQUAL else f'DIFFERS: {line}'}", flush=True)
    return differ + sum(_sequence(entry, outputs) for entry in record.get("sequences", ()))


def _sequence(entry: Mapping[str, Any], outputs: Outputs) -> bool:
    """Compute the figures of a sequence again, print one line, and return whether they differ."""
    from speechforget.stages.joined import NotHere
    from speechforget.stages.recompute import recompute_sequence

    try:
        again = recompute_sequence(outputs, entry)
    except NotHere as reason:
        print(f"{entry['path']}: only hashes and signature were checked, because {reason}")
        return False
    except UserError as error:
        print(f"{entry['path']}: DIFFERS: {error}")
        return True
    line = f"DIFFERS: {again.difference}" if again.difference else f"{EQUAL}, {again.numbers} values"
    print(f"{entry['path']}: {line}", flush=True)
    return again.difference is not None


def _result(entry: Mapping[str, Any], outputs: Outputs, checked: Checked) -> Iterator[tuple[str, str]]:
    """Yield (`EQUAL` or another word, sentence) for a result."""
    from speechforget.stages.joined import NotHere
    from speechforget.stages.recompute import copied, recompute

    folder = outputs.find("result", entry["key"])
    if folder is None:
        yield EQUAL, "not here: only the record tells its numbers"
        return
    if difference := copied(folder, entry):
        yield "copy", f"{difference} (in result.json)"
        return
    try:
        again = recompute(outputs, folder, entry)
    except NotHere as reason:
        yield EQUAL, f"only hashes and signature were checked, because {reason}"
        return
    except UserError as error:
        yield "damaged", str(error)
        return
    if again.difference:
        yield "number", f"{again.difference}{_made_by(entry)}"
    else:
        beside = f"; not {'; not '.join(again.left_out)}" if again.left_out else ""
        yield EQUAL, f"{EQUAL}, {again.numbers} values{beside}"


def _made_by(entry: Mapping[str, Any]) -> str:
    from speechforget.store import commit

    now = commit()
    return "" if entry["commit"] == now else f" (made by commit {entry['commit']}, and this is {now})"
