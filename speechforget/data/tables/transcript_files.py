"""Transcripts in files of their own, beside recordings: name.txt or name.lab beside name.wav."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from speechforget.data.corpora.base import Survey
from speechforget.data.tables.layout import Layout, read_folders
from speechforget.data.tables.manifest import ids_of
from speechforget.data.tables.text import composed, read_lines, tidy
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError

SUFFIXES = (".txt", ".lab")
FIX = "write the words that are said into it, in UTF-8"
TIMED = re.compile(r"\s*(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s+\S")  # begin, end, label: HTK, Audacity
HOW = (
    "Put the transcript of name.wav beside it, as name.txt or name.lab, or list the recordings in FOLDER/manifest.csv "
    "with the columns path, text, speaker, subset."
)


def read_transcribed(root: Path, found: Survey, column: str, folders: str | None) -> Layout:
    """Read recordings with the transcripts beside them, in folders as `read_folders` has them, or all in the root.

    column: what the first folder says about a recording. Raises UserError where no recording has a transcript, and
    for a transcript that cannot be understood.
    """
    found.check(root)
    if any("/" in path for path in found.sounds):
        layout = read_folders(root, found, column, folders, HOW)
    else:
        table = pd.DataFrame({"id": ids_of(pd.Series(found.sounds, dtype=str)), "path": found.sounds}, dtype=str)
        layout = Layout(table.assign(subset=""))
    beside = _beside(found.other)
    files = {path: beside.get(_bare(path), []) for path in layout.table["path"]}
    if not any(files.values()):
        raise UserError(f"{root} has no recording with a transcript. {HOW}")
    for path, names in files.items():
        if len(names) > 1:
            raise UserError(f"{root / path} has more than one transcript ({', '.join(names)}): keep one of them.")
    layout.table[TEXT] = [_read(root / names[0]) if names else "" for names in files.values()]
    layout.companions.extend(sorted({name for names in files.values() for name in names}))
    return layout


def _beside(paths: list[str]) -> dict[str, list[str]]:
    """Map paths without their suffix to the transcripts of this name."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if path.lower().endswith(SUFFIXES):
            found.setdefault(_bare(path), []).append(path)
    return found


def _bare(path: str) -> str:
    return composed(str(PurePosixPath(path).with_suffix("")))


def _read(path: Path) -> str:
    """Read a transcript as one line. Raises UserError for a list of labels with times."""
    lines = [line for line in read_lines(path, f"The transcript {path}", FIX) if line.strip()]
    times = [match for line in lines if (match := TIMED.match(line))]
    if len(lines) > 1 and len(times) == len(lines) and all(float(time[1]) <= float(time[2]) for time in times):
        raise UserError(f"The transcript {path} holds labels with times instead of a text: {FIX}.")
    return tidy(" ".join(map(tidy, lines)))
