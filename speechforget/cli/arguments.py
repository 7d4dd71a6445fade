"""What a command line is made of: the sub-commands, the folder of configurations, and ~ for the home folder."""

from __future__ import annotations

import re
from pathlib import Path

SUBCOMMANDS = {
    "classify": "speechforget.cli.classify",
    "export": "speechforget.cli.export",
    "explain": "speechforget.explain",
    "report": "speechforget.report.__main__",
    "store": "speechforget.cli.store",
}
# A link in a checkout, a folder in an installed package: the same path in both.
CONF = (Path(__file__).parents[1] / "conf").resolve()
HOME = re.compile(r"(\+{0,2}[\w.@/]+=)(~(?:/.*)?)", flags=re.DOTALL)


def expand_home(arguments: list[str]) -> list[str]:
    """Replace ~ and ~/... after a key by the home folder: shells leave them there, and Hydra cannot parse them."""
    found = [HOME.fullmatch(argument) for argument in arguments]
    return [
        f"{match[1]}{Path(match[2]).expanduser()}" if match else argument
        for argument, match in zip(arguments, found, strict=True)
    ]
