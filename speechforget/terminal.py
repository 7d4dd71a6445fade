"""Printing that never fails: what a terminal's encoding lacks is printed as something that it has."""

from __future__ import annotations

import codecs
import sys

PLAIN = {"─": "-", "—": "-", "–": "-", "·": "-", "±": "+-", "×": "x", "→": "->", "…": "...", "’": "'"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands in for the signs that cannot be encoded: a like one, or else the number of the sign."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


codecs.register_error("speechforget", _plain)


def print_anywhere() -> None:
    """For both streams of this process, whatever PYTHONIOENCODING or the locale say. Streams that are not of a terminal or a file are left alone."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="speechforget")
