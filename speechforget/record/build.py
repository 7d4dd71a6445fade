"""Build the record of all finished results below a folder; docs/record.md says what is in it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from speechforget.errors import UserError
from speechforget.record.canonical import NAME, VERSION
from speechforget.record.entry import Entries
from speechforget.record.folders import Outputs
from speechforget.record.jobs import jobs_without_result
from speechforget.record.not_shown import not_shown
from speechforget.record.policy import apply_policy, read_policy
from speechforget.record.salt import own_salt
from speechforget.record.sequences import sequences
from speechforget.record.shared import WORD, expand
from speechforget.record.standards import standards_of
from speechforget.store import commit

NOTHING: Mapping[str, bytes] = MappingProxyType({})


def build(
    folder: Path, attachments: Mapping[str, bytes] = NOTHING, policy: Path | None = None, made: datetime | None = None
) -> dict[str, Any]:
    """Return the record of the finished results below a folder as JSON.

    attachments: name -> bytes of what the record vouches for beside the evidence, such as data of charts.
    policy: a file of thresholds. made: the date of the record, by default now.
    Raises UserError if there is no result, if an artefact is damaged, or if the policy is wrong.
    """
    asked = read_policy(policy) if policy is not None else None
    outputs = Outputs(folder)
    if not outputs.results:
        raise UserError(f"There is no finished result below '{folder}': run `speechforget`, or name another folder.")
    salt = own_salt(folder)
    entries = Entries(outputs, salt)
    results, unreadable = _entries(entries, outputs)
    whole = [expand(result, entries.shared.values) for result in results]
    turns = sequences(outputs, entries.evidence, salt)
    judged = None if asked is None else apply_policy(asked, whole)
    for result, read in zip(results, whole, strict=True):
        result["standards"] = entries.shared.put("standards", standards_of(read, judged))
    return {
        "schema": {"name": NAME, "version": VERSION},
        "made": (made or datetime.now(UTC)).isoformat(timespec="seconds"),
        "speechforget": {"version": importlib.metadata.version("speechforget"), "commit": commit()},
        "salt": salt.name,
        "results": results,
        **({"sequences": turns} if turns else {}),
        **jobs_without_result(outputs, unreadable),
        "not_shown": not_shown(whole),
        "evidence": entries.evidence.to_json(),
        "attachments": {name: hashlib.sha256(content).hexdigest() for name, content in attachments.items()},
        "policy": judged,
        WORD: entries.shared.values,
    }


def _entries(entries: Entries, outputs: Outputs) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """Return the entries of all results, and why those that cannot be read have none."""
    found, unreadable = [], {}
    for path in outputs.results:
        try:
            found.append(entries.entry(path))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            unreadable[path] = f"it cannot be read as a result ({type(error).__name__}: {error})"
    return found, unreadable
