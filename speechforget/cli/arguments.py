"""What a command line is made of: the sub-commands, the folder of configurations, and ~ for the home folder."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Callable
from pathlib import Path

from speechforget.errors import UserError
from speechforget.terminal import print_anywhere

SUBCOMMANDS = {
    "classify": "speechforget.cli.classify",
    "diff": "speechforget.cli.diff",
    "export": "speechforget.cli.export",
    "explain": "speechforget.explain",
    "poison": "speechforget.cli.poison",
    "record": "speechforget.cli.record",
    "report": "speechforget.cli.report",
    "status": "speechforget.cli.status",
    "store": "speechforget.cli.store",
    "verify": "speechforget.cli.verify",
}
# A link in a checkout, a folder in an installed package: the same path in both.
CONF = (Path(__file__).parents[1] / "conf").resolve()
HOME = re.compile(r"(\+{0,2}[\w.@/]+=)(~(?:/.*)?)", flags=re.DOTALL)


def run_command(command: Callable[[], int]) -> int:
    """Run a sub-command and return its exit code; a user's mistake is one sentence and exit code 1."""
    print_anywhere()
    try:
        return command()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        return 0


def reader_is_gone() -> bool:
    """Say whether the reader of what is printed, such as `| head`, has closed the pipe; print nothing more then."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def expand_home(arguments: list[str]) -> list[str]:
    """Replace ~ and ~/... after a key by the home folder: shells leave them there, and Hydra cannot parse them."""
    found = [HOME.fullmatch(argument) for argument in arguments]
    return [
        f"{match[1]}{Path(match[2]).expanduser()}" if match else argument
        for argument, match in zip(arguments, found, strict=True)
    ]
