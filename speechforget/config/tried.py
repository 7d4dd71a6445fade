"""Warn of a request that a method's numbers were never tried on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.config.transcripts import is_text

CAREFUL = (
    "they may do nothing here, or destroy the model. "
    "Look at forget and retain first, or search for numbers (scripts/tune.py)."
)


def untried(config: Mapping[str, Any], forget: int, trained: int) -> str | None:
    """Return a warning where the request's share of the training utterances is outside `method.tried`; else None.

    The numbers of all methods were tried on classes, so a method with numbers always gets one on transcripts.

    forget, trained: numbers of utterances in the request, and in the training set including the request.
    """
    method, kind = config["method"], config["task"]["kind"]
    if is_text(config) and method.get("tried"):
        return f"The numbers of {method['name']} were tried on classes, and this run is on transcripts: {CAREFUL}"
    ends = (method.get("tried") or {}).get(kind)
    if ends is None or ends[0] <= forget / trained <= ends[1]:
        return None
    return (
        f"The request is {100 * forget / trained:.1f} % of the training recordings, "
        f"but the numbers of {method['name']} were tried on {100 * ends[0]:g} to {100 * ends[1]:g} % "
        f"for {kind} requests (method.tried): {CAREFUL}"
    )
