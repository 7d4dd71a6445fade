"""VoxCeleb1 identification: 1,251 speakers, 153,516 recordings.

Nagrani, Chung & Zisserman, Interspeech 2017, arXiv:1706.08612.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_label, require_root
from speechforget.data.corpora.completeness import check_lines, check_listed
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

LIST, ATTRIBUTES = "iden_split.txt", "vox1_meta.csv"
FOLDERS = ("wav", "vox1_dev_wav/wav", "vox1_test_wav/wav", "dev/wav", "test/wav")
HOW = (
    "Request vox1_dev_wav.zip and vox1_test_wav.zip at https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html, "
    f"unpack both there, and put {LIST} and {ATTRIBUTES} from https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/ "
    "beside them"
)
FIX = (
    "unpack both archives (vox1_dev_wav.zip and vox1_test_wav.zip) again into dataset.root, "
    f"beside the {LIST} of VoxCeleb1"
)
SUBSET_OF = {"1": "train", "2": "validation", "3": "test"}  # in the official list: 138,361, 6,904 and 8,251 recordings
GENDERS = {"m": "male", "f": "female"}


def index(root: str | Path | None, label: str, cache: Path, complete: bool = True) -> Corpus:
    """Index the corpus with its official identification split: every speaker is in all subsets, every video in one.

    Columns: speaker (id10001 ...), video (the session), and, if vox1_meta.csv is in the root, gender and nationality.
    Ids are the paths in the list, speaker/video/file. The archives may be unpacked into one wav/, or into
    vox1_dev_wav/wav and vox1_test_wav/wav, or into dev/wav and test/wav.

    complete: true raises a UserError that names missing recordings; false logs them and goes on.
    """
    folder = require_root(root, "voxceleb1", f"{HOW}.")
    listed = check_lines("voxceleb1", _listed(folder), f"the lines of {LIST}")
    folder_of = _found(folder)
    table = check_listed("voxceleb1", listed, folder_of.keys(), complete, FIX)
    table = table.rename(columns={"path": "id"}).sort_values("id", ignore_index=True)
    table.insert(1, "path", table["id"].map(folder_of) + table["id"])
    if (folder / ATTRIBUTES).is_file():
        table = _with_attributes(table, folder / ATTRIBUTES)
    require_label(table, label, "voxceleb1")
    return Corpus("voxceleb1", folder, table)


def _listed(folder: Path) -> pd.DataFrame:
    """Read the list: path, subset, speaker, video; one row per line."""
    path = folder / LIST
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The list {path} cannot be read ({error}): set dataset.root to the folder of VoxCeleb1. {HOW}."
        ) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        subset, _, name = line.strip().partition(" ")
        parts = name.strip().split("/")
        if subset not in SUBSET_OF or len(parts) != 3:
            raise UserError(
                f"Line {number} of {path} is '{line[:80]}', not '<1, 2 or 3> <speaker>/<video>/<file>': download the "
                f"list again. {HOW}."
            )
        rows.append(("/".join(parts), SUBSET_OF[subset], parts[0], parts[1]))
    if not rows:
        raise UserError(f"The list {path} is empty: download it again. {HOW}.")
    return pd.DataFrame(rows, columns=["path", "subset", "speaker", "video"], dtype=str)


def _found(folder: Path) -> dict[str, str]:
    """Map speaker/video/file to its folder below the root, with a slash at the end."""
    found: dict[str, str] = {}
    doubled = 0
    for inside in FOLDERS:
        if (folder / inside).is_dir():
            for path in recordings(folder / inside):
                doubled += path in found
                found.setdefault(path, f"{inside}/")
    if not found:
        raise UserError(
            f"{folder} has no recordings in {', '.join(FOLDERS[:-1])} or {FOLDERS[-1]}: set dataset.root to the "
            f"folder of VoxCeleb1. {HOW}."
        )
    if doubled:
        logger.warning(
            "voxceleb1: %d recordings are in two of the folders %s: the first is used", doubled, ", ".join(FOLDERS)
        )
    return found


def _with_attributes(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add gender and nationality, "" where the file does not give them."""
    try:
        about = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig", quoting=csv.QUOTE_NONE
        )
        about = about.rename(columns=str.strip).drop_duplicates("VoxCeleb1 ID").set_index("VoxCeleb1 ID")
        gender, nationality = about["Gender"].str.strip().str.lower(), about["Nationality"].str.strip()
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): download it again, or delete it to go on without gender and "
            f"nationality. {HOW}."
        ) from None
    genders = table["speaker"].map(gender).fillna("").replace(GENDERS)
    return table.assign(gender=genders, nationality=table["speaker"].map(nationality).fillna(""))
