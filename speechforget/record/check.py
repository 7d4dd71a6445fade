"""Check a record against itself and against the files it lists: schema, attachments, evidence, Merkle root."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from speechforget.record import merkle
from speechforget.record.canonical import PAGE, RECORD, islands, without_record
from speechforget.record.evidence import file_hashes
from speechforget.record.folders import Outputs
from speechforget.record.hidden import hidden_path
from speechforget.store.manifest import sha256

SCHEMA = "schema.json"


class Checked(NamedTuple):
    """Hold what was checked. problems: sentences. absent: files of the evidence that are not here."""

    problems: list[str]
    files: int
    absent: list[str]


def schema() -> Path:
    """Return the path of the published JSON schema of a record."""
    return Path(str(files("speechforget.record") / SCHEMA))


def check_attachments(path: Path, record: Mapping[str, Any]) -> tuple[list[str], int]:
    """Compare the attachments of a page with their hashes; return the problems, and how many were compared.

    A record in a JSON file has its attachments elsewhere, so none is compared.
    """
    if path.suffix.lower() == ".json":
        return [], 0
    page = path.read_bytes()
    found = {**islands(page), PAGE: without_record(page)}
    problems = []
    for name, expected in record["attachments"].items():
        if name not in found:
            problems.append(f"the attachment '{name}' is not in {path.name}")
        elif hashlib.sha256(found[name]).hexdigest() != expected:
            what = "the page around the record" if name == PAGE else f"the attachment '{name}'"
            problems.append(f"{what} changed since the record was made")
    unknown = sorted(found.keys() - record["attachments"].keys() - {RECORD, PAGE})
    problems += [f"the record does not vouch for the data '{name}' of the page" for name in unknown]
    return problems, len(record["attachments"])


def check_root(record: Mapping[str, Any]) -> list[str]:
    """Compare the Merkle root with the hashes of the evidence; return the problems."""
    evidence = record["evidence"]
    fits = merkle.root(file_hashes(evidence["folders"])) == evidence["root"]
    return [] if fits else ["the Merkle root does not fit the hashes of the evidence: the list of files was changed"]


def check_evidence(record: Mapping[str, Any], outputs: Outputs) -> Checked:
    """Hash every file of the evidence that is below the folder, and compare."""
    problems: list[str] = []
    absent: list[str] = []
    count = 0
    for name, folder, file, held in _files(record, outputs):
        path = None if folder is None else folder / file
        if folder is None or path is None or file in outputs.purged(folder):
            absent.append(name)
        elif not path.exists():
            problems.append(f"{name} is missing")
        else:
            count += 1
            if path.stat().st_size != held["size"] or sha256(path) != held["sha256"]:
                problems.append(f"{name} changed since the record was made")
    return Checked(problems, count, absent)


def _files(record: Mapping[str, Any], outputs: Outputs) -> Iterator[tuple[str, Path | None, str, Mapping[str, Any]]]:
    """Yield the path in the record, the folder here (None if it is not), the path in it and the entry of each file."""
    here = {hidden_path(outputs.relative(path)): path for path in outputs.finished}
    by_digits = {path.name.rpartition("-")[2]: path for path in outputs.finished}
    for folder, held in record["evidence"]["folders"].items():
        found = here.get(folder) or by_digits.get(folder.rpartition("-")[2])
        for name, entry in held.items():
            yield f"{folder}/{name}", found, name, entry
