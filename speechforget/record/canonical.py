"""Write and read a record as canonical JSON, alone or inside an HTML page.

The rule: UTF-8, keys sorted by code points, no spaces, floats as the shortest digits that give the same double (`repr`
of Python), no nan and no infinity. It is RFC 8785 but for the form of floats, and for keys outside the basic plane.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

from speechforget.errors import UserError

NAME, VERSION = "speechforget-record", 1
PARTS = ("made", "speechforget", "results", "evidence", "attachments", "shared")
ISLAND = re.compile(rb'<script type="application/json" id="(?P<name>[\w-]+)">(?P<text>.*?)</script>', re.DOTALL)
PACKED, LARGE = "gzip:", 4_000_000  # a record of more bytes of JSON stands in its element as base64 of its gzip
RECORD, PAGE = "record", "page"  # the element of a page that holds the record; the page around it


def canonical_bytes(value: Any) -> bytes:
    """Return the canonical JSON of a value. Raises ValueError for nan and infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def island(name: str, content: bytes) -> str:
    """Return JSON as a script element of an HTML page, which `islands` reads back to the byte.

    content: canonical JSON. In a string, "</" becomes "<\\/", so that no text can end the element.
    """
    safe = content.decode().replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return f'<script type="application/json" id="{name}">{safe}</script>'


def islands(page: bytes) -> dict[str, bytes]:
    """Return the canonical bytes of every JSON element of a page, by its id. Raises ValueError for broken JSON."""
    return {found["name"].decode(): _unpacked(json.loads(found["text"].decode())) for found in ISLAND.finditer(page)}


def _packed(content: bytes) -> bytes:
    """Return the JSON of an element: large content as one string with its gzip in base64."""
    if len(content) <= LARGE:
        return content
    return canonical_bytes(PACKED + base64.b64encode(gzip.compress(content, mtime=0)).decode())


def _unpacked(value: Any) -> bytes:
    """Return the canonical bytes of the JSON of an element. Raises ValueError for broken gzip."""
    if not isinstance(value, str) or not value.startswith(PACKED):
        return canonical_bytes(value)
    try:
        return gzip.decompress(base64.b64decode(value.removeprefix(PACKED), validate=True))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"its gzip is broken ({error})") from None


def embed(page: str, record: dict[str, Any]) -> str:
    """Return a page with a record in place of its empty element; the record then vouches for the page around it.

    page: HTML with the element that `island(RECORD, b"")` gives. Adds the attachment `page` to the record.
    """
    empty = island(RECORD, b"")
    if page.count(empty) != 1:
        raise ValueError(f"the page must have one element {empty}")
    record["attachments"][PAGE] = hashlib.sha256(page.encode()).hexdigest()
    return page.replace(empty, island(RECORD, _packed(canonical_bytes(record))))


def without_record(page: bytes) -> bytes:
    """Return the bytes of a page with its record taken out."""
    return ISLAND.sub(
        lambda found: island(RECORD, b"").encode() if found["name"].decode() == RECORD else found[0], page
    )


def read_record(path: Path) -> dict[str, Any]:
    """Read a record from a page or a JSON file. Raises UserError if there is none."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() in {".html", ".htm"}:
            content = islands(content)[RECORD]
        record = json.loads(content)
        name, version = record["schema"]["name"], record["schema"]["version"]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a report.html or record.json.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} holds no record: give a report.html or record.json of `speechforget report`."
        ) from None
    if (name, version) != (NAME, VERSION):
        raise UserError(
            f"{path} holds a record of the kind {name}, version {version}: this speechforget reads {NAME}, "
            f"version {VERSION}, so use the version that made it."
        )
    if lacking := [part for part in PARTS if part not in record]:
        raise UserError(f"{path} holds a record without its part '{lacking[0]}': get the whole file again.")
    return dict(record)
