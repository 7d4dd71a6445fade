"""Fluent Speech Commands: 31 intents, 97 speakers, 30,043 recordings.

Lugosch et al., Interspeech 2019, arXiv:1904.03670.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_label, require_root
from speechforget.data.corpora.completeness import check_lines, check_listed
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = "fluent_speech_commands_dataset"
HOW = (
    "Get it (its own licence, for research) from "
    "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/ "
    f"and set dataset.root to the folder that holds {FOLDER}."
)
FIX = "unpack fluent_speech_commands_dataset.tar.gz again and set dataset.root to its folder"
LISTS = {"train": "train_data.csv", "validation": "valid_data.csv", "test": "test_data.csv"}
SLOTS = ("action", "object", "location")
DEMOGRAPHICS = "speaker_demographics.csv"
# Columns of DEMOGRAPHICS, without the spaces around them -> our names.
ABOUT = {
    "gender": "gender",
    "First Language spoken": "first_language",
    "Current language used for work/school": "language",
    "Self-reported fluency level": "fluency",
    "ageRange": "age",
}


def index(root: str | Path | None, label: str, cache: Path, complete: bool = True) -> Corpus:
    """Index the corpus in its own layout: data/{train,valid,test}_data.csv and wavs/speakers/<speaker>/<id>.wav.

    The three subsets share no speaker. Columns: intent (action-object-location), action, object, location,
    transcription, speaker, and, if data/speaker_demographics.csv exists, gender, first_language, language (at work or
    school), fluency and age (a range), as the speakers said. Label text is the transcription.

    complete: true raises a UserError that names missing recordings; false logs them and goes on.
    """
    folder = require_root(root, "fluent_speech_commands", HOW)
    folder = folder / FOLDER if (folder / FOLDER / "data").is_dir() else folder
    if not (folder / "data" / LISTS["train"]).is_file():
        raise UserError(
            f"{folder} has no data/{LISTS['train']}: set dataset.root to the folder of Fluent Speech Commands. {HOW}"
        )
    listed = pd.concat([_listed(folder / "data" / name, subset) for subset, name in LISTS.items()], ignore_index=True)
    listed = check_lines("fluent_speech_commands", listed, f"the lists {', '.join(LISTS.values())}")
    found = [f"wavs/{path}" for path in recordings(folder / "wavs")] if (folder / "wavs").is_dir() else []
    table = check_listed("fluent_speech_commands", listed, found, complete, FIX)
    table.insert(0, "id", table["path"])
    if (folder / "data" / DEMOGRAPHICS).is_file():
        table = _with_demographics(table, folder / "data" / DEMOGRAPHICS)
    if label == TEXT:
        table[TEXT] = table["transcription"]
    require_label(table, label, "fluent_speech_commands")
    if label == "speaker":
        raise UserError(
            "The lists of Fluent Speech Commands keep speakers apart, so test speakers are not in training: set "
            "dataset.label=intent."
        )
    return Corpus("fluent_speech_commands", folder, table.sort_values("id", ignore_index=True))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig").rename(columns=str.strip)
    except (OSError, ValueError) as error:
        raise UserError(f"The list {path} cannot be read ({error}): {FIX}.") from None


def _listed(path: Path, subset: str) -> pd.DataFrame:
    lines = _read(path)
    wanted = ["path", "speakerId", "transcription", *SLOTS]
    if missing := [column for column in wanted if column not in lines]:
        raise UserError(f"The list {path} has no column '{missing[0]}': {FIX}.")
    lines = lines[wanted].rename(columns={"speakerId": "speaker"})
    lines.insert(1, "subset", subset)
    intent = lines[list(SLOTS)].agg("-".join, axis=1) if len(lines) else ""
    return lines.assign(intent=intent, path=lines["path"].str.removeprefix("./"))


def _with_demographics(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add what the speakers said about themselves, "" where they said nothing."""
    about = _read(path)
    if "speakerId" not in about:
        raise UserError(f"{path} has no column 'speakerId': {FIX}.")
    about = about.drop_duplicates("speakerId").set_index("speakerId")
    for column, name in ABOUT.items():
        if column in about:
            table[name] = table["speaker"].map(about[column].str.strip()).fillna("")
        else:
            logger.warning("fluent_speech_commands: %s has no column '%s', so %s is unknown", path, column, name)
    return table
