"""What a job's log says of why the job ended."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

END_BYTES, LONGEST = 16384, 300  # how much of a log is read; of a line shown
SLURM = ("srun: ", "slurmstepd: ")
NO_CAUSE = re.compile(r"Exited with exit code \d+$")  # what srun adds where the program itself has said why
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def last_words(log: Path) -> str:
    """The line that says why: the last one or, where SLURM had the last word, its first error since the program's own. Empty where there is none."""
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
