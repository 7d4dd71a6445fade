"""CREMA-D: 6 emotions, 91 actors, 7,442 recordings.

Cao, Cooper, Keutmann, Gur, Nenkova & Verma, IEEE TAFFC 5(4), 2014.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_label, require_root
from speechforget.data.corpora.completeness import check_counts, examples
from speechforget.data.corpora.speaker_split import test_subset
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

HOW = (
    "Clone https://github.com/CheyneyComputerScience/CREMA-D with git lfs, and set dataset.root to the clone, which "
    "holds AudioWAV/ and VideoDemographics.csv."
)
FIX = "run git lfs pull in the clone of CREMA-D again"
FOLDER, DEMOGRAPHICS = "AudioWAV", "VideoDemographics.csv"
PUBLISHED = 7442
# Twelve sentences in six emotions; one of them has five emotions at three levels. The authors published 20 fewer.
USUAL = {str(actor): 82 for actor in range(1001, 1092)}
EMPTY = "1076_MTI_SAD_XX.wav"  # published without sound
NAME = re.compile(r"(?P<speaker>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{1,2})\.wav")
EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
# X: an error in the corpus, 1040_ITH_SAD_X.wav.
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
ABOUT = {"Sex": "gender", "Age": "age", "Race": "race", "Ethnicity": "ethnicity"}


def index(
    root: str | Path | None, label: str, cache: Path, test: float = 0.2, complete: bool = True, seed: int = 0
) -> Corpus:
    """Index the corpus in its own layout: AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav.

    Columns: speaker (1001 ...), sentence (three letters), emotion (what the actor played, not what listeners heard),
        level (low, medium, high, unspecified), and, if VideoDemographics.csv exists, gender, age, race and ethnicity.
    test: for label speaker the share of each speaker's recordings, stratified by emotion; else about this share of the
        recordings, in whole speakers, drawn by seed.
    complete: true raises a UserError if there are fewer recordings than published; false logs this and goes on.
    """
    folder = require_root(root, "crema_d", HOW)
    if not (folder / FOLDER).is_dir():
        raise UserError(f"{folder} has no folder {FOLDER}: set dataset.root to the folder of CREMA-D. {HOW}")
    table = _recordings(folder, complete)
    if (folder / DEMOGRAPHICS).is_file():
        table = _with_demographics(table, folder / DEMOGRAPHICS)
    else:
        logger.warning("crema_d: %s is missing, so gender, age, race and ethnicity are unknown", folder / DEMOGRAPHICS)
    require_label(table, label, "crema_d")
    table.insert(2, "subset", test_subset(table, label, test, seed))
    table = table.sort_values("id", ignore_index=True)
    return Corpus("crema_d", folder, table, steady=table.drop(columns="subset"))


def _recordings(folder: Path, complete: bool) -> pd.DataFrame:
    paths = recordings(folder / FOLDER)
    matches = {
        path: match
        for path in paths
        if (match := NAME.fullmatch(path)) and match["emotion"] in EMOTIONS and match["level"] in LEVELS
    }
    strange = sorted(set(paths) - matches.keys())
    if not matches:
        raise UserError(
            f"{folder / FOLDER} has no recordings with names like 1001_DFA_ANG_XX.wav: set dataset.root to the folder "
            f"of CREMA-D. {HOW}"
        )
    if strange:
        logger.warning(
            "crema_d: %d files do not have names of recordings and are left out (%s)", len(strange), examples(strange)
        )
    rows = [
        {
            "id": f"{FOLDER}/{path}",
            "path": f"{FOLDER}/{path}",
            **match.groupdict(),
            "emotion": EMOTIONS[match["emotion"]],
            "level": LEVELS[match["level"]],
        }
        for path, match in matches.items()
    ]
    table = pd.DataFrame(rows, dtype=str)
    counts = {str(speaker): int(count) for speaker, count in table["speaker"].value_counts().items()}
    fix = f"{FIX}; {len(strange)} files there do not have names of recordings ({examples(strange)})" if strange else FIX
    check_counts("crema_d", counts, USUAL, PUBLISHED, complete, fix, who="actor")
    if EMPTY in matches:
        logger.info("crema_d: %s was published without sound and is left out", EMPTY)
    return table[table["path"] != f"{FOLDER}/{EMPTY}"].reset_index(drop=True)


def _with_demographics(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    try:
        about = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig").rename(columns=str.strip)
        about = about.drop_duplicates("ActorID").set_index("ActorID")
        found = {name: table["speaker"].map(about[column].str.strip()).fillna("") for column, name in ABOUT.items()}
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it from the repository, or delete it to go on without it. {HOW}"
        ) from None
    return table.assign(**{**found, "gender": found["gender"].str.lower()})
