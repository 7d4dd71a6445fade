"""The command `speechforget`, which `python run.py` runs, too: a comparison, or one of the sub-commands."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from speechforget.cli.arguments import SUBCOMMANDS, reader_is_gone


def main() -> None:
    """Run what the command line asks for, and exit with its code, also where the reader of a pipe has left."""
    code: str | int | None = 0
    try:
        try:
            _run()
        except SystemExit as ended:
            code = ended.code
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise
    sys.exit(code)


def _run() -> None:
    """Run the sub-command that the first word names; without one, run the comparison that the overrides describe."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # as `python run.py` in a checkout: a yaml in my_conf may name a module beside it
    if sys.argv[1:] == ["--version"]:
        print(f"speechforget {version('speechforget')}")
        return
    if module := SUBCOMMANDS.get(next(iter(sys.argv[1:]), "")):
        sys.exit(import_module(module).main(sys.argv[2:]))
    from speechforget.cli.main import compare

    compare()
