"""Lists of utterance ids that a user wrote: one a line, as every request is saved."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechforget.data.tables.text import read_lines, spelling
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

FIX = "name a UTF-8 text file with one utterance id a line"


def read_ids(file: Any, known: Iterable[str]) -> list[str]:
    """The ids in the file `task.ids`, each once, in its order; empty lines are left out.

    known: the corpus's ids. A line that is none of them but spells one of them (another Unicode form, backslashes, blanks at its ends) is that one,
    which is logged. Other lines are given as they are. Raises UserError for a file that cannot be read or holds no id.
    """
    if file is None:
        raise UserError(
            "task.ids is not set: name a text file with one utterance id a line, as saved with every request (forget.txt)."
        )
    lines = [
        line for line in read_lines(Path(str(file)).expanduser(), f"The list task.ids={file}", FIX) if line.strip()
    ]
    exact = dict.fromkeys(known)
    if not lines:
        raise UserError(
            f"The list task.ids={file} is empty: write one utterance id a line, such as {next(iter(exact))}."
        )
    spelt: dict[str, list[str]] = {}
    if not all(line in exact for line in lines):
        for identity in exact:
            spelt.setdefault(spelling(identity), []).append(identity)
    found = [line if line in exact or len(same := spelt.get(spelling(line), [])) != 1 else same[0] for line in lines]
    if changed := sum(line != identity for line, identity in zip(lines, found, strict=True)):
        logger.warning(
            "task.ids: %d ids are spelt otherwise than in the corpus (blanks, slashes, Unicode form), and are taken for its own",
            changed,
        )
    return list(dict.fromkeys(found))
