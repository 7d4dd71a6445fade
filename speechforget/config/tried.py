"""What a method's numbers were tried on, and a warning where a request is something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.errors import UserError


def untried(config: Mapping[str, Any], forget: int, trained: int) -> str | None:
    """A sentence where the request's share of the training utterances lies outside of what `method.tried` names for its kind; else None.

    forget, trained: utterances of the request, and of the training set with it. Raises UserError for a range that is none.
    """
    method, kind = config["method"], config["task"]["kind"]
    ends = (method.get("tried") or {}).get(kind)
    if ends is None:
        return None
    if not (
        isinstance(ends, list | tuple)
        and len(ends) == 2
        and all(isinstance(end, int | float) for end in ends)
        and 0 <= ends[0] <= ends[1] <= 1
    ):
        raise UserError(
            f"method.tried.{kind} must be [lowest, highest], two shares of the training recordings from 0 to 1, not {ends}."
        )
    share = forget / trained
    if ends[0] <= share <= ends[1]:
        return None
    return (
        f"The request is {100 * share:.1f} % of the training recordings, and method.tried names {100 * ends[0]:g} to {100 * ends[1]:g} % for {kind} "
        f"requests: the numbers of {method['name']} may do nothing here, or destroy the model. "
        "Look at forget and retain first, or search numbers (scripts/tune.py)."
    )
