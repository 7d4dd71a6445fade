"""Find the reason why a job ended in its log."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

END_BYTES, LONGEST = 16384, 300  # read from the end of a log, in bytes; shown of a line, in characters
SLURM = ("srun: ", "slurmstepd: ")
NO_CAUSE = re.compile(r"Exited with exit code \d+$")  # added by srun after the program's own message
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def last_words(log: Path) -> str:
    """Return the last line of a log, or SLURM's first error if SLURM wrote the last lines; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - END_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for each in text.splitlines() if (line := COLOUR.sub("", each).strip()) and not NO_CAUSE.search(line)]
    of_slurm = list(takewhile(lambda line: line.startswith(SLURM), reversed(lines)))[::-1]
    errors = [line for line in of_slurm if "error:" in line or "fatal:" in line]
    return next(iter(errors or of_slurm or lines[-1:]), "")[:LONGEST]
