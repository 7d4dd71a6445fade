"""Spell transcripts as models of speech recognition do: lower case, without punctuation."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

TEXT = "text"  # the label, and the column, of transcripts
# Typed or printed for an apostrophe: quotation marks, the modifier letter, the prime, the accents, the Armenian sign.
APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc\u2032\u0060\u00b4\u055a"), "'")
ZERO_WIDTH_SPACE = "\u200b"  # parts words in scripts that write no spaces


def spelled(text: str) -> str:
    """Return the text in Unicode form NFKC and lower case, as words with one space between them.

    A word has letters with their marks (Unicode categories L and M), decimal digits and apostrophes. Other characters
    part words. Invisible ones, such as the soft hyphen, do not.
    """
    visible = "".join(sign for sign in text.translate(APOSTROPHES) if not _is_invisible(sign))
    # A lower-case letter can have another form NFKC than its capital, and the form NFKC of some signs has apostrophes.
    lowered = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).lower()).translate(APOSTROPHES)
    return " ".join("".join(sign if _is_spelled(sign) else " " for sign in lowered).split())


def letters(texts: Iterable[str]) -> list[str]:
    """List the characters of the spelled texts, the space too, in the order of their code points."""
    return sorted({sign for text in texts for sign in spelled(text)})


def _is_invisible(sign: str) -> bool:
    return unicodedata.category(sign) == "Cf" and sign != ZERO_WIDTH_SPACE


def _is_spelled(sign: str) -> bool:
    category = unicodedata.category(sign)
    return sign == "'" or category == "Nd" or category[0] in "LM"
