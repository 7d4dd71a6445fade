"""Define the exceptions that tell a user in one sentence what is wrong and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix; its text says how. It ends a run with exit code 1 and no stack trace."""


class NotApplicable(UserError):  # noqa: N818
    """A method is not defined for the request; a multirun lists it and continues."""


class Diverged(UserError):  # noqa: N818
    """Weights, losses or outputs are not finite; the text names the stage, the moment and what to lower."""


class RankError(Exception):
    """One of several processes of a run failed; the text names it and the cause. Its own output is printed above."""


def nearest(word: str, choices: Iterable[str], limit: int = 12) -> str:
    """Return a hint for an unknown `word`: at most `limit` known names, and the closest one. Has no full stop."""
    known = sorted({str(choice) for choice in choices})
    close = difflib.get_close_matches(str(word), known, n=1)
    if not known:
        return "there are none"
    shown = ", ".join(known[:limit]) + (f", ... ({len(known)} in all)" if len(known) > limit else "")
    return f"did you mean '{close[0]}'? There are {shown}" if close else f"there are {shown}"
