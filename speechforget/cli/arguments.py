"""What is done to the command line before Hydra reads it."""

from __future__ import annotations

import re
from pathlib import Path

HOME = re.compile(r"(\+{0,2}[\w.@/]+=)(~(?:/.*)?)", flags=re.DOTALL)


def at_home(arguments: list[str]) -> list[str]:
    """The arguments with ~ and ~/... behind a key as the home folder: shells leave it there, and Hydra cannot read it."""
    found = [HOME.fullmatch(argument) for argument in arguments]
    return [
        f"{match[1]}{Path(match[2]).expanduser()}" if match else argument
        for argument, match in zip(arguments, found, strict=True)
    ]
