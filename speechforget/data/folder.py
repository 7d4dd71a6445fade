"""The user's own recordings: one folder per label, or a manifest (CSV or TSV)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from speechforget.data.corpus import NO_ATTRIBUTES, Corpus, recordings, require_root, stem
from speechforget.data.split import drawn_share, units
from speechforget.data.windows import check_apart
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

HOW = "Put recordings into FOLDER/<label>/<file>, or list them in FOLDER/manifest.csv with the columns path, word, speaker, subset."
MANIFESTS = ("manifest.csv", "manifest.tsv")
SUBSET_NAMES = {
    name: subset
    for subset, names in {"train": "train training", "validation": "validation val valid dev", "test": "test testing"}.items()
    for name in names.split()
}
RESERVED = NO_ATTRIBUTES - {"id", "path", "subset", "start", "seconds"}


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    manifest: str | None = None,
    test: float = 0.2,
    speaker_pattern: str | None = None,
    seed: int = 0,
) -> Corpus:
    """Recordings of any rate, number of channels and format that libsndfile reads, below `root`.

    manifest: a table (.csv: commas, .tsv: tabs) with the column path, relative to the root, a column for the label, and maybe subset, id, start and
        seconds (a window of a long recording); further columns are kept as attributes. Default: manifest.csv or manifest.tsv in the root when it has
        a column for the label, else folders: the first folder of a path is its word (its speaker when the label is speaker and no pattern says more).
    test: the seeded share that tests, of each label, where no subset says what does.
    speaker_pattern: a regular expression whose first group is the speaker, searched in file names, such as "^(.+)_nohash_".
    """
    folder = require_root(root, "folder", HOW)
    named = folder / manifest if manifest else next((path for name in MANIFESTS if (path := folder / name).is_file()), None)
    table = None if named is None else _listed(named, label, required=manifest is not None)
    if table is None:
        table = _by_folder(folder, "speaker" if label == "speaker" and speaker_pattern is None else "word")
    if speaker_pattern is not None:
        table["speaker"] = _speakers(table["path"], speaker_pattern)
    if "start" in table:
        check_apart(table, lambda row: f"Line {row + 2} of the manifest {named}, '{table['id'].iloc[row]}'")
    table["unit"] = units(table)
    table["subset"] = table["subset"].where(table["subset"] != "").groupby(table["unit"]).transform("first").fillna("")
    drawn = label in table and not (table["subset"] == "test").any()
    if drawn:
        if not 0 < test < 1:
            raise UserError(f"dataset.corpus.test is {test}: give the share to test on, between 0 and 1.")
        pool = table["subset"] != "validation"
        table.loc[pool, "subset"] = np.where(drawn_share(table[pool], test, label, "test", seed), "test", "train")
    table = table.drop(columns="unit").sort_values("id", ignore_index=True)
    kept = table["subset"].where(table["subset"] == "validation", "") if drawn else table["subset"]
    return Corpus("folder", folder, table, steady=table.assign(subset=kept))


def _by_folder(folder: Path, column: str) -> pd.DataFrame:
    paths = recordings(folder)
    inside = [path for path in paths if "/" in path]
    if not inside:
        raise UserError(f"{folder} holds no recordings in folders. {HOW}")
    if len(inside) < len(paths):
        logger.warning("folder: %d recordings lie in no folder, so have no label, and are left out", len(paths) - len(inside))
    return pd.DataFrame({"id": inside, "path": inside, "subset": "", column: [path.partition("/")[0] for path in inside]}, dtype=str)


def _listed(path: Path, label: str, required: bool) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"The manifest {path} cannot be read ({str(error).strip()}): write a UTF-8 table with a line of column names.") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"The manifest {path} has more fields in a line than column names in the first: name every column.")
    missing = [column for column in ("path", label) if column not in table]
    if missing and required:
        raise UserError(f"The manifest {path} has no column '{missing[0]}': {nearest(missing[0], table.columns)}.")
    if missing:
        logger.warning("folder: %s has no column '%s' and is not used; folder names are the labels", path, missing[0])
        return None
    if reserved := sorted(RESERVED & set(table.columns)):
        raise UserError(f"The manifest {path} has a column '{reserved[0]}', a name that is kept for the program: give it another.")
    table = table.assign(path=table["path"].str.replace("\\", "/"))
    if (table["path"] == "").any():
        raise UserError(f"The manifest {path} has a line without a path, line {int((table['path'] == '').to_numpy().argmax()) + 2}: fill it in.")
    for column in ("start", "seconds"):
        if column in table:
            table[column] = _numbers(table[column], column, path)
    subset = table["subset"].str.strip().str.lower() if "subset" in table else pd.Series("", index=table.index)
    unknown = sorted(set(subset) - set(SUBSET_NAMES) - {""})
    if unknown:
        raise UserError(f"The manifest {path} has the subset '{unknown[0]}': {nearest(unknown[0], ('train', 'validation', 'test'))}.")
    if "id" not in table:
        table["id"] = table["path"] + ("@" + table["start"].map("{:.3f}".format) if "start" in table else "")
    return table.assign(subset=subset.map(SUBSET_NAMES).fillna(""))


def _numbers(values: pd.Series, column: str, path: Path) -> pd.Series:
    """Seconds; empty is 0 for start and "to the end" for seconds."""
    numbers = pd.to_numeric(values.replace("", "0" if column == "start" else "nan"), errors="coerce")
    wrong = ((numbers.isna() & (values != "") & (values.str.lower() != "nan")) | (numbers < 0)).to_numpy()
    if wrong.any():
        raise UserError(f"The manifest {path} has the {column} '{values.iloc[int(wrong.argmax())]}', which is no time in seconds: write a number.")
    return numbers


def _speakers(paths: pd.Series, pattern: str) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"dataset.corpus.speaker_pattern={pattern} is no regular expression ({error}): write one such as '^(.+)_nohash_'.") from None
    if expression.groups < 1:
        raise UserError(f"dataset.corpus.speaker_pattern={pattern} has no group: put the speaker into brackets, as in '^(.+)_nohash_'.")
    matches = [expression.search(stem(path)) for path in paths]
    if unmatched := sum(match is None for match in matches):
        logger.warning("folder: no speaker found in %d of %d file names", unmatched, len(matches))
    return [match[1] if match else "" for match in matches]
