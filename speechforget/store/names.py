"""Clean the words in front of a key for every file system.

The words are for readers and identify nothing, so characters that do not fit are dropped.
"""

from __future__ import annotations

import re
import unicodedata

# Bytes in UTF-8. With key and `.lock` this stays below the 143 of encrypted file systems and below the 128 of W&B.
LONGEST = 100

LOW_RANK = "low_rank.safetensors"  # beside a model into which low-rank updates were merged
CERTIFICATE = "certificate.json"  # beside a model whose method states a bound


def words_for(name: str) -> str:
    """Replace characters that file systems, shells or W&B refuse; cut to LONGEST bytes. Letters of all scripts stay."""
    plain = re.sub(r"[^\w.+=,%@-]+", "_", unicodedata.normalize("NFC", name))
    cut = plain.encode()[:LONGEST].decode(errors="ignore")
    return cut.lstrip(".-").rstrip(".") or "_"
