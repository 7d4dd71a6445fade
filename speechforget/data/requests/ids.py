"""Read a user's list of utterance ids, one per line, in the format in which every request is saved."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechforget.data.tables.text import read_lines, spelling
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

FIX = "name a UTF-8 text file with one utterance id per line"


def read_ids(file: Any, known: Iterable[str]) -> list[str]:
    """Return the ids of the file `task.ids`, each once and in order, without empty lines.

    known: the ids of the corpus. A line that only differs from one of them in Unicode form, backslashes or blanks at
    its ends is taken as that id, with a warning. Other lines are returned unchanged.
    Raises UserError for a file that cannot be read or has no id.
    """
    if file is None:
        raise UserError(
            "task.ids is not set: name a text file with one utterance id per line, "
            "such as the forget.txt saved with every request."
        )
    lines = [
        line for line in read_lines(Path(str(file)).expanduser(), f"The list task.ids={file}", FIX) if line.strip()
    ]
    exact = dict.fromkeys(known)
    if not lines:
        raise UserError(
            f"The list task.ids={file} is empty: write one utterance id per line, such as {next(iter(exact))}."
        )
    spelt: dict[str, list[str]] = {}
    if not all(line in exact for line in lines):
        for identity in exact:
            spelt.setdefault(spelling(identity), []).append(identity)
    found = [line if line in exact or len(same := spelt.get(spelling(line), [])) != 1 else same[0] for line in lines]
    if changed := sum(line != identity for line, identity in zip(lines, found, strict=True)):
        logger.warning(
            "task.ids: %d ids are spelt differently from the corpus (blanks, slashes, Unicode form); its ids are used",
            changed,
        )
    return list(dict.fromkeys(found))
