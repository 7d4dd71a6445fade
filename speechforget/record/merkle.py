"""Compute the Merkle root of the evidence, as in RFC 6962: leaves and nodes have different prefixes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence


def leaf(path: str, sha256: str) -> bytes:
    """Hash one file: SHA-256 of 0x00, its path in UTF-8, 0x00, and the 32 bytes of its hash."""
    return hashlib.sha256(b"\x00" + path.encode() + b"\x00" + bytes.fromhex(sha256)).digest()


def root(hashes: Mapping[str, str]) -> str:
    """Return the root over files in the order of their paths, 64 hexadecimal digits. hashes: path -> SHA-256."""
    return _tree([leaf(path, hashes[path]) for path in sorted(hashes)]).hex()


def _tree(leaves: Sequence[bytes]) -> bytes:
    """Split at the largest power of two below the number of leaves."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree(leaves[:middle]) + _tree(leaves[middle:])).digest()
