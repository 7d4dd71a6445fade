"""Arabic Speech Commands: 40 words, 30 speakers, CC BY 4.0.

Ghandoura, Hjabo & Al Dakkak, Engineering Applications of Artificial Intelligence, 2021.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_root, stem
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

HOW = (
    "Download it (366 MB, CC BY 4.0) from https://github.com/abdulkaderghandoura/arabic-speech-commands-dataset "
    "and set dataset.root to the folder that holds dataset/."
)
NAME = re.compile(r"(?P<speaker>.+)_NO_(?P<take>\d+)")
LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def index(
    root: str | Path | None, label: str, cache: Path, split: str = "take", test_takes: Collection[int] = (9,)
) -> Corpus:
    """Index the corpus in its own layout: dataset/<word>/<speaker>_NO_<take>.wav or .flac.

    split: "take" (the takes `test_takes` test; all speakers are in training) or "authors" (the lists train.csv, val.csv
        and test.csv; their speakers are disjoint).
    Raises UserError if the folder is not this corpus, or if the split does not serve the label.
    """
    folder = require_root(root, "arabic_speech_commands", HOW)
    if not (folder / "dataset").is_dir():
        inner = folder / "arabic-speech-commands"
        if not (inner / "dataset").is_dir():
            raise UserError(
                f"{folder} has no folder 'dataset': set dataset.root to the folder of Arabic Speech Commands. {HOW}"
            )
        folder = inner
    if split not in {"take", "authors"}:
        raise UserError(f"dataset.corpus.split is '{split}': choose take or authors.")
    if split == "authors" and label == "speaker":
        raise UserError(
            "The authors' split keeps speakers apart, so test speakers are not in training: set "
            "dataset.corpus.split=take for dataset.label=speaker."
        )
    rows = []
    for path in recordings(folder / "dataset"):
        word, _, file = path.rpartition("/")
        if match := NAME.fullmatch(stem(file)):
            rows.append(
                {"path": f"dataset/{path}", "word": word, "speaker": match["speaker"], "take": str(int(match["take"]))}
            )
    table = pd.DataFrame(rows, columns=["path", "word", "speaker", "take"], dtype=str)
    table.insert(0, "id", table["path"])
    table.insert(
        2, "subset", _authors(folder, table["path"]) if split == "authors" else _by_take(table["take"], test_takes)
    )
    unlisted = int(table["subset"].isna().sum())
    if unlisted:
        logger.warning("arabic_speech_commands: %d recordings are in no list of the authors and are left out", unlisted)
    table = table.dropna().sort_values("id", ignore_index=True)
    folders = [folder / name for name in ("background_noise", "_background_noise_")]
    noise = tuple(each / path for each in folders if each.is_dir() for path in recordings(each))
    return Corpus("arabic_speech_commands", folder, table, noise)


def _by_take(takes: pd.Series, test_takes: Collection[int]) -> pd.Series:
    chosen = {str(int(take)) for take in test_takes}
    if unknown := chosen - set(takes):
        raise UserError(
            f"dataset.corpus.test_takes names take {min(unknown)}, which does not exist: "
            f"{nearest(min(unknown), takes)}."
        )
    return takes.isin(chosen).map({True: "test", False: "train"})


def _authors(folder: Path, paths: pd.Series) -> pd.Series:
    """Return the subset of each path; missing where no list names it."""
    subset_of = {}
    for subset, name in LISTS.items():
        try:
            listed = pd.read_csv(folder / name, dtype=str)["file"]
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"The authors' list {folder / name} cannot be read ({error}): restore it, or set "
                "dataset.corpus.split=take."
            ) from None
        subset_of.update(dict.fromkeys(listed, subset))
    return paths.map(subset_of)
