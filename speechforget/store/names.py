"""Words in front of a key, made fit for any file system: they are for readers and identify nothing, so what does not fit is left out."""

from __future__ import annotations

import re
import unicodedata

LONGEST = (
    100  # bytes in UTF-8: with the key and `.lock` below the 143 that encrypted file systems allow, and below W&B's 128
)


def words_for(name: str) -> str:
    """A name without what file systems, shells or W&B refuse, of at most LONGEST bytes; letters of all scripts stay."""
    plain = re.sub(r"[^\w.+=,%@-]+", "_", unicodedata.normalize("NFC", name))
    cut = plain.encode()[:LONGEST].decode(errors="ignore")
    return cut.lstrip(".-").rstrip(".") or "_"
