"""The command `speechforget`, which `python run.py` runs, too: a comparison, or one of the sub-commands."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from speechforget.cli.arguments import SUBCOMMANDS


def main() -> None:
    """Run the sub-command that the first word names; without one, run the comparison that the overrides describe."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as `python run.py` in a checkout: a yaml in my_conf may name a module beside it
    if module := SUBCOMMANDS.get(next(iter(sys.argv[1:]), "")):
        sys.exit(import_module(module).main(sys.argv[2:]))
    from speechforget.cli.main import compare

    compare()
