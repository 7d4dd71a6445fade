"""Tell which recordings of a person are in the requests of a record; only who has the salt can ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechforget.errors import UserError
from speechforget.record.salt import Salt
from speechforget.record.shared import expanded


class Found(NamedTuple):
    """Hold the answer for one request.

    name: of the request. forgotten: ids that were forgotten. withdrawn: ids that no model was trained on. absent: the
    other ids. results: paths of the results of this request. known: whether the record still has the hashes.
    """

    name: str
    forgotten: list[str]
    withdrawn: list[str]
    absent: list[str]
    results: list[str]
    known: bool


def find(record: Mapping[str, Any], salt: Salt, ids: Sequence[str]) -> list[Found]:
    """Look ids up in every request of a record. Raises UserError if the salt is not that of the record."""
    if salt.name != record["salt"]:
        raise UserError("The salt is not that of this record: give the file record_salt that lay beside its report.")
    requests: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for result in expanded(record):
        request = result["request"]
        name = f"{request['name']} {request['hashes']}"
        requests.setdefault(name, (request, []))[1].append(result["path"])
    return [_in_request(request, paths, salt, ids) for request, paths in requests.values()]


def _in_request(request: Mapping[str, Any], paths: list[str], salt: Salt, ids: Sequence[str]) -> Found:
    known = request["hashes"] is not None and request["salt"] == salt.name
    forget, withdrawn = set(request["hashes"] or ()), set(request["withdrawn_hashes"])
    hashed = {identity: salt.hashed(identity) for identity in ids}
    inside = [identity for identity in ids if hashed[identity] in forget]
    never = [identity for identity in ids if hashed[identity] in withdrawn]
    absent = [identity for identity in ids if hashed[identity] not in forget | withdrawn]
    return Found(request["name"], inside, never, absent, paths, known)


def read_ids(path: Path) -> list[str]:
    """Read one id a line, each once. Raises UserError for a file that cannot be read or is empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"The list {path} cannot be read ({error.strerror}): give a text file, one id a line."
        ) from None
    except ValueError:
        raise UserError(f"The list {path} is not UTF-8 text: give a text file, one id a line.") from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise UserError(f"The list {path} is empty: give a text file, one id a line.")
    return found
