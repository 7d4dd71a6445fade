"""Text that people write: one spelling for what looks alike, and files that hold it."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from speechforget.data.audio.formats import unfetched
from speechforget.errors import UserError

BLANKS = "".join(sign for sign in map(chr, range(0x3001)) if sign.isspace()) + "\ufeff\u200b\u200e\u200f\u2060"


def composed(text: str) -> str:
    """The text in Unicode's form NFC: an é is one sign, not an e with an accent behind it."""
    return unicodedata.normalize("NFC", text)


def tidy(text: str) -> str:
    """The text in form NFC, without blanks and invisible marks at its ends."""
    return text.strip() if text.isascii() else composed(text).strip(BLANKS)


def spelling(path: str) -> str:
    """A relative path as it would be written with care: slashes, form NFC, neither blanks at its ends nor parts that say nothing."""
    parts = tidy(path).replace("\\", "/").split("/")
    return "/".join(part for number, part in enumerate(parts) if part not in ("", ".") or (number == 0 and part == ""))


def showable(text: str) -> str:
    """The text for a message: what no terminal can show (bytes that are not UTF-8, line breaks) is written out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")


def read_lines(path: Path, what: str, fix: str) -> list[str]:
    """The lines of a UTF-8 file (or of UTF-16 that says so), whichever way they end. Raises UserError: `what` cannot be read, and `fix`."""
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
