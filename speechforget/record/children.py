"""Find the models that were derived from the original of a result."""

from __future__ import annotations

from typing import Any

from speechforget.record.folders import Outputs
from speechforget.record.hidden import hidden_path

STAGES = ("unlearned", "importance", "kept_epoch")


def children(outputs: Outputs) -> dict[str, list[dict[str, str]]]:
    """Map the key of each original to the artefacts here that were made from it or on the way to it.

    Of each: stage, path and key.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in STAGES:
        for folder in outputs.of_stage(stage):
            made = {"stage": stage, "path": hidden_path(outputs.relative(folder)), "key": outputs.key(folder)}
            found.setdefault(str(outputs.inputs(folder).get("original")), []).append(made)
    return found
