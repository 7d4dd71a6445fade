"""RAVDESS (Livingstone & Russo, PLoS ONE 13(5): e0196391, 2018), the speech: 8 emotions, 24 actors, 1,440 recordings; CC BY-NC-SA 4.0."""

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
HOW = f"Unpack {ARCHIVE}.zip (215 MB, CC BY-NC-SA 4.0) from https://zenodo.org/record/1188976 and name the folder that holds Actor_01 to Actor_24."
FIX = f"unpack {ARCHIVE}.zip again and set dataset.root to the folder that holds Actor_01 to Actor_24"
ACTORS = 24
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
INTENSITIES = ("normal", "strong")  # neutral has no strong one
STATEMENTS = ("kids", "dogs")  # Kids (Dogs) are talking (sitting) by the door
SPEECH = re.compile(
    r"Actor_\d\d/03-01-.*"
)  # modality 03 is sound alone, vocal channel 01 is speech; the rest is song and video


def index(
    root: str | Path | None, label: str, cache: Path, test: float = 0.2, complete: bool = True, seed: int = 0
) -> Corpus:
    """The corpus in its own layout: Actor_<actor>/03-01-<emotion>-<intensity>-<statement>-<repetition>-<actor>.wav.

    Columns: speaker (01 to 24), gender, emotion, intensity, statement, repetition. What must be there is known from the names alone.
    test: for label speaker the share of each speaker's recordings, over the emotions; else a seeded choice of whole speakers with about that share.
    complete: what happens when recordings are missing: true raises a UserError that says which, false logs it and goes on.
    """
    folder = _folder(require_root(root, "ravdess", HOW))
    found = [
        f"{actor.name}/{path}"
        for actor in sorted(folder.glob("Actor_*"))
        if actor.is_dir()
        for path in recordings(actor)
    ]
    table = check_listed("ravdess", _published(), [path for path in found if SPEECH.fullmatch(path)], complete, FIX)
    table.insert(0, "id", table["path"])
    require_label(table, label, "ravdess")
    table.insert(2, "subset", test_subset(table, label, test, seed))
    table = table.sort_values("id", ignore_index=True)
    return Corpus("ravdess", folder, table, steady=table.drop(columns="subset"))


def _folder(root: Path) -> Path:
    """The folder of the actors: the root, or the archive's folder in it."""
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name.lower() == ARCHIVE.lower()]
    for place in (root, *inside):
        if any(place.glob("Actor_*")):
            return place
    raise UserError(f"{root} has no folders Actor_01 to Actor_24: set dataset.root to the folder of RAVDESS. {HOW}")


def _published() -> pd.DataFrame:
    rows = []
    for actor, emotion, intensity, statement, repetition in itertools.product(
        range(1, ACTORS + 1), range(1, 9), (1, 2), (1, 2), (1, 2)
    ):
        if not (EMOTIONS[emotion - 1] == "neutral" and INTENSITIES[intensity - 1] == "strong"):
            rows.append(
                {
                    "path": f"Actor_{actor:02}/03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}.wav",
                    "speaker": f"{actor:02}",
                    "gender": "male" if actor % 2 else "female",
                    "emotion": EMOTIONS[emotion - 1],
                    "intensity": INTENSITIES[intensity - 1],
                    "statement": STATEMENTS[statement - 1],
                    "repetition": str(repetition),
                }
            )
    return pd.DataFrame(rows, dtype=str)
