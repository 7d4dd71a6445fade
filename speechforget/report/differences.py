"""Short descriptions of results by the facts in which they differ."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

HASH = re.compile(r"[0-9a-f]{16,}")
SHOWN, DIGITS = 8, 6  # differences in a description, digits of a hash


def differences(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Describe each identity by the facts that differ between identities, such as `epochs=3, code 3fa94c`.

    facts: identity -> flat facts. The description of a single identity is empty. Identities with equal descriptions get
    digits of the identity appended.
    """
    names = sorted({name for flat in facts.values() for name in flat})
    differing = [name for name in names if len({json.dumps(flat.get(name)) for flat in facts.values()}) > 1]
    words = {
        identity: _words({name: flat[name] for name in differing if name in flat}) for identity, flat in facts.items()
    }
    repeated = {text for text in words.values() if list(words.values()).count(text) > 1}
    return {
        identity: f"{text} {digits(identity)}".strip() if text in repeated else text for identity, text in words.items()
    }


def _words(flat: Mapping[str, Any]) -> str:
    said: dict[str, None] = {}
    for name, value in flat.items():
        said[_said(_short(name, flat), value)] = None
    shown = list(said)[:SHOWN]
    return ", ".join([*shown, *([f"{len(said) - SHOWN} more"] if len(said) > SHOWN else [])])


def _short(name: str, flat: Mapping[str, Any]) -> str:
    """Shorten a dotted name to its last parts: enough that it is not just `name`, nor the name of another value."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        short = ".".join(parts[-count:])
        same = [flat[other] for other in flat if f".{other}".endswith(f".{short}")]
        if short != "name" and all(value == flat[name] for value in same):
            return short
    return name


def _said(name: str, value: Any) -> str:
    if _is_hash(value):
        return f"{name} {digits(value if isinstance(value, str) else json.dumps(value))}"
    return f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _is_hash(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_hash, value))
    return isinstance(value, str) and bool(HASH.fullmatch(value))


def digits(text: str) -> str:
    """Return the first digits of a hash, or of the hash of any other text."""
    return (text if HASH.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest())[:DIGITS]
