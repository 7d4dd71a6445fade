"""Text that people write: one spelling for what looks the same, and the files that hold it."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from speechforget.data.audio.formats import unfetched
from speechforget.errors import UserError

BLANKS = "".join(sign for sign in map(chr, range(0x3001)) if sign.isspace()) + "\ufeff\u200b\u200e\u200f\u2060"


def composed(text: str) -> str:
    """Return the text in Unicode form NFC: é is one character, not an e and an accent."""
    return unicodedata.normalize("NFC", text)


def tidy(text: str) -> str:
    """Return the text in form NFC, without spaces and invisible characters at its ends."""
    return text.strip() if text.isascii() else composed(text).strip(BLANKS)


def spelling(path: str) -> str:
    """Normalise a relative path: slashes, form NFC, no spaces at its ends, no empty parts and no `.`."""
    parts = tidy(path).replace("\\", "/").split("/")
    return "/".join(part for number, part in enumerate(parts) if part not in ("", ".") or (number == 0 and part == ""))


def showable(text: str) -> str:
    """Escape what a terminal cannot show in one line: bytes that are not UTF-8, and line breaks."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")


def read_lines(path: Path, what: str, fix: str) -> list[str]:
    """Read the lines of a UTF-8 file, or of a UTF-16 file with a byte order mark, with any line ends.

    what: the file in words, the subject of the error. fix: what the user can do. Raises UserError.
    """
    try:
        content = path.read_bytes()
        if (reason := unfetched(content[:64])) is None:
            encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
            text = content.decode(encoding)
            reason = "it holds zero bytes" if "\0" in text else None
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error)
    if reason is not None:
        raise UserError(f"{what} cannot be read ({reason}): {fix}.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
