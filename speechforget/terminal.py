"""Print on any terminal: characters that its encoding lacks are replaced by similar ones."""

from __future__ import annotations

import codecs
import sys

PLAIN = {"─": "-", "—": "-", "–": "-", "·": "-", "±": "+-", "×": "x", "→": "->", "…": "...", "’": "'"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of characters that cannot be encoded: a similar character, or an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


codecs.register_error("speechforget", _plain)


def print_anywhere() -> None:
    """Make stdout and stderr replace characters, whatever PYTHONIOENCODING and the locale say; other streams stay."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="speechforget")
