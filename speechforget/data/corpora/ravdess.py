"""RAVDESS, its speech: 8 emotions, 24 actors, 1,440 recordings; CC BY-NC-SA 4.0.

Livingstone & Russo, PLoS ONE 13(5): e0196391, 2018.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_label, require_root
from speechforget.data.corpora.completeness import check_listed
from speechforget.data.corpora.speaker_split import test_subset
from speechforget.errors import UserError

ARCHIVE = "Audio_Speech_Actors_01-24"
HOW = (
    f"Unpack {ARCHIVE}.zip (215 MB, CC BY-NC-SA 4.0) from https://zenodo.org/record/1188976 and set dataset.root to "
    "the folder that holds Actor_01 to Actor_24."
)
FIX = f"unpack {ARCHIVE}.zip again and set dataset.root to the folder that holds Actor_01 to Actor_24"
ACTORS = 24
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
INTENSITIES = ("normal", "strong")  # neutral is only normal
STATEMENTS = ("kids", "dogs")  # Kids (Dogs) are talking (sitting) by the door
# Modality 03 is audio only, vocal channel 01 is speech; the rest is song and video.
SPEECH = re.compile(r"Actor_\d\d/03-01-.*")


def index(
    root: str | Path | None, label: str, cache: Path, test: float = 0.2, complete: bool = True, seed: int = 0
) -> Corpus:
    """Index Actor_<actor>/03-01-<emotion>-<intensity>-<statement>-<repetition>-<actor>.wav.

    Columns: speaker (01 to 24), gender, emotion, intensity, statement, repetition. The names alone tell what must
        exist.
    test: for label speaker the share of each speaker's recordings, stratified by emotion; else about this share of the
        recordings, in whole speakers, drawn by seed.
    complete: true raises a UserError that names missing recordings; false logs them and goes on.
    """
    folder = _folder(require_root(root, "ravdess", HOW))
    found = [
        f"{actor.name}/{path}"
        for actor in sorted(folder.glob("Actor_*"))
        if actor.is_dir()
        for path in recordings(actor)
    ]
    table = check_listed("ravdess", published(), [path for path in found if SPEECH.fullmatch(path)], complete, FIX)
    table.insert(0, "id", table["path"])
    require_label(table, label, "ravdess")
    table.insert(2, "subset", test_subset(table, label, test, seed))
    table = table.sort_values("id", ignore_index=True)
    return Corpus("ravdess", folder, table, steady=table.drop(columns="subset"))


def _folder(root: Path) -> Path:
    """Find the folder of the actors: the root, or the archive's folder in it."""
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() == ARCHIVE.lower()]
    for folder in (root, *inside):
        if any(folder.glob("Actor_*")):
            return folder
    raise UserError(f"{root} has no folders Actor_01 to Actor_24: set dataset.root to the folder of RAVDESS. {HOW}")


def published() -> pd.DataFrame:
    """List all recordings of the speech that the authors published: path and attributes."""
    rows = []
    for actor, emotion, intensity, statement, repetition in itertools.product(
        range(1, ACTORS + 1), range(1, 9), (1, 2), (1, 2), (1, 2)
    ):
        if not (EMOTIONS[emotion - 1] == "neutral" and INTENSITIES[intensity - 1] == "strong"):
            codes = f"{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}"
            rows.append(
                {
                    "path": f"Actor_{actor:02}/03-01-{codes}.wav",
                    "speaker": f"{actor:02}",
                    "gender": "male" if actor % 2 else "female",
                    "emotion": EMOTIONS[emotion - 1],
                    "intensity": INTENSITIES[intensity - 1],
                    "statement": STATEMENTS[statement - 1],
                    "repetition": str(repetition),
                }
            )
    return pd.DataFrame(rows, dtype=str)
