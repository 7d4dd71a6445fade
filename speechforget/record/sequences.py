"""Describe the sequences of requests below a folder without naming anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.record.command import SPEAKER
from speechforget.record.evidence import Evidence
from speechforget.record.folders import Outputs
from speechforget.record.hidden import hidden_path, hidden_request
from speechforget.record.salt import Salt
from speechforget.store.files import read_json

STAGE, FILE = "sequence", "sequence.json"


def sequences(outputs: Outputs, evidence: Evidence, salt: Salt) -> list[dict[str, Any]]:
    """Return the summary of each finished sequence, and add its files to the evidence."""
    return [
        {"key": outputs.key(folder), "path": evidence.add(folder), **_hidden(read_json(folder / FILE), salt)}
        for folder in outputs.of_stage(STAGE)
    ]


def _hidden(told: Mapping[str, Any], salt: Salt) -> dict[str, Any]:
    requests = [_request(each, str(told["label"]), salt) for each in told["requests"]]
    return {**told, "requests": requests, "at_once_result": hidden_path(str(told["at_once_result"]))}


def _request(request: Mapping[str, Any], label: str, salt: Salt) -> dict[str, Any]:
    """Return the counts of a request, without the list of those before, which its own result has."""
    people = label == SPEAKER
    return {
        **{name: value for name, value in request.items() if name != "earlier"},
        "name": hidden_request(str(request["name"]), label, salt),
        "forgotten": salt.all(request["forgotten"]) if people else list(request["forgotten"]),
        "result": hidden_path(str(request["result"])),
    }
