"""What a user can do wrong, as exceptions that carry one sentence and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend; its text is one sentence that says how. Ends a run with exit code 1, without a stack trace."""


class NotApplicable(UserError):  # noqa: N818
    """A method that is not defined for the request; a multirun lists it and goes on."""


class Diverged(UserError):  # noqa: N818
    """Weights, losses or outputs are not finite numbers; says of which stage, when, and what to lower."""


class RankError(Exception):
    """A process that worked on a run together with others failed; its text names it and the cause. What the cause printed stands above."""


def nearest(word: str, choices: Iterable[str], limit: int = 12) -> str:
    """A hint for an unknown `word`: what exists (at most `limit` names), and the closest of it if one is close. Ends without a stop."""
    known = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(str(word), known, n=1)
    if not known:
        return "there are none"
    shown = ", ".join(known[:limit]) + (f", ... ({len(known)} in all)" if len(known) > limit else "")
    return f"did you mean '{close[0]}'? There are {shown}" if close else f"there are {shown}"
