"""Hash what names people with a secret salt that stays with the operator."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speechforget.errors import UserError
from speechforget.store.files import explained

FILE = "record_salt"
DIGITS = 32  # of a hash: 128 bits, so that two of a million utterances do not share one


@dataclass(frozen=True)
class Salt:
    """Hold the secret of one output folder."""

    secret: bytes

    def hashed(self, text: str) -> str:
        """Return the HMAC-SHA256 of a text in UTF-8, the first 32 hexadecimal digits."""
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    def all(self, texts: Iterable[str]) -> list[str]:
        """Return the hashes of texts, sorted, so that their order tells nothing."""
        return sorted(self.hashed(text) for text in texts)

    @property
    def name(self) -> str:
        """Return what tells this salt from others without giving it away."""
        return hashlib.sha256(b"speechforget record salt\x00" + self.secret).hexdigest()[:16]


def own_salt(folder: Path) -> Salt:
    """Read the salt beside the report, or make it (32 random bytes, readable by its owner only).

    Raises UserError if the folder cannot be written or the file is no salt.
    """
    path = folder / FILE
    if not path.exists():
        made = folder / f".{FILE}.{os.getpid()}"
        with explained(path, "Cannot write to {folder} ({reason}): a record needs a salt there."):
            descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{secrets.token_hex(32)}\n")
            try:
                os.link(made, path)  # of two processes, the first wins
            except FileExistsError:
                pass
            finally:
                made.unlink()
    return read_salt(path)


def read_salt(path: Path) -> Salt:
    """Read a salt file. Raises UserError for any other file."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(f"The salt {path} cannot be read ({error.strerror}): give the file record_salt.") from None
    except ValueError:
        text = ""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise UserError(f"{path} is no salt, which is one line of 64 hexadecimal digits: give the file record_salt.")
    return Salt(bytes.fromhex(text))
