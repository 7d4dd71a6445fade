"""The user's own recordings: one folder per label, or a manifest (CSV or TSV)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import Corpus, Survey, require_root, stem, survey
from speechforget.data.corpora.completeness import examples, summary
from speechforget.data.split import drawn_share, units
from speechforget.data.tables.layout import Layout, read_folders
from speechforget.data.tables.manifest import find_manifest, read_manifest
from speechforget.data.tables.text import composed
from speechforget.data.tables.transcript import TEXT
from speechforget.data.tables.transcript_files import read_transcribed
from speechforget.data.windows import check_apart
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

HOW = (
    "Put recordings into FOLDER/<label>/<file>, or list them in FOLDER/manifest.csv with the columns path, word, "
    "speaker, subset."
)


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    manifest: str | bool | None = None,
    folders: str | None = None,
    test: float = 0.2,
    speaker_pattern: str | None = None,
    seed: int = 0,
) -> Corpus:
    """Index recordings below `root`, of any rate, number of channels and format that libsndfile reads.

    manifest: a table (.csv or .tsv) with the column path, relative to the root, a column for the label, and maybe
        subset, id and a window of a long recording (see `spans`). Other columns become attributes. None: manifest.csv
        or manifest.tsv in the root if it exists, else folders. False: folders. Then the first folder of a path is its
        word, or its speaker if the label is speaker or text and there is no pattern. For label text, transcripts are
        then read from the files beside the recordings: name.txt or name.lab beside name.wav.
    folders: "labels" or "subsets", the meaning of the first folders; None decides by their names (see `read_folders`).
    test: the seeded share of each label (for label text, of all recordings) that tests, where no subset says which
        recordings test.
    speaker_pattern: a regular expression, searched in file names; its first group is the speaker: "^(.+)_nohash_".
        Opens no recording, unless the manifest gives lengths of files. Logs one line of counts. Raises UserError for
        what cannot be understood.
    """
    folder = require_root(root, "folder", HOW)
    found = survey(folder)
    layout, named = _read(folder, found, label, manifest, folders, speaker_pattern is not None)
    table = layout.table
    if speaker_pattern is not None:
        if "speaker" in table:
            layout.notes.append("speakers come from dataset.corpus.speaker_pattern, not from the manifest")
        table["speaker"] = _speakers(table["path"], speaker_pattern)
    check_apart(table, lambda row: f"Line {layout.lines[row]} of the manifest {named}, '{table['id'].iloc[row]}'")
    _log(folder, found, layout, label, named)
    table["unit"] = units(table)
    table["subset"] = table["subset"].where(table["subset"] != "").groupby(table["unit"]).transform("first").fillna("")
    drawn = label in table and not (table["subset"] == "test").any()
    if drawn:
        if not 0 < test < 1:
            raise UserError(f"dataset.corpus.test is {test}: give the share of test recordings, between 0 and 1.")
        pool = table["subset"] != "validation"
        by = "subset" if label == TEXT else label  # hardly two recordings have one text
        table.loc[pool, "subset"] = np.where(drawn_share(table[pool], test, by, "test", seed), "test", "train")
    table = table.drop(columns="unit").sort_values("id", ignore_index=True)
    kept = table["subset"].where(table["subset"] == "validation", "") if drawn else table["subset"]
    return Corpus("folder", folder, table, tuple(folder / path for path in layout.noise), table.assign(subset=kept))


def _read(
    folder: Path, found: Survey, label: str, manifest: str | bool | None, folders: str | None, pattern: bool
) -> tuple[Layout, Path | None]:
    """Read the manifest or the folders. Return what they say, and the manifest's path."""
    if manifest is True:
        raise UserError(
            "dataset.corpus.manifest is true: give the name of the table, or null to find manifest.csv or manifest.tsv."
        )
    asked = manifest not in (None, False)
    path = find_manifest(folder, found) if manifest is None else None
    if asked:
        path = folder / Path(str(manifest)).expanduser()
    if path is not None:
        read = read_manifest(path, folder, found, None if label == "speaker" and pattern else label, asked)
        if read is not None and folders is not None:
            raise UserError(
                f"dataset.corpus.folders={folders} has no effect beside the manifest {path}: set it to null, or set "
                "dataset.corpus.manifest=false."
            )
        if read is not None:
            table, notes = read
            ignored = {"not in the manifest": sorted(set(found.sounds) - set(table["path"]))}
            return Layout(table.reset_index(drop=True), ignored=ignored, notes=notes, lines=table.index.tolist()), path
    if label == TEXT:
        return read_transcribed(folder, found, "folder" if pattern else "speaker", folders), None
    return read_folders(folder, found, "speaker" if label == "speaker" and not pattern else "word", folders, HOW), None


def _log(folder: Path, found: Survey, layout: Layout, label: str, manifest: Path | None) -> None:
    """Log one line of counts, and one for everything that was read in another way than it is written."""
    for note in layout.notes:
        logger.warning("folder: %s%s", f"{manifest.name}: " if manifest is not None else "", note)
    table = layout.table
    used = {*table["path"], *layout.companions}
    if manifest is not None and manifest.is_relative_to(folder):
        used.add(manifest.relative_to(folder).as_posix())
    kinds = {"not sound": found.other, "hidden": found.hidden, "links to a folder above them": found.above}
    kinds |= {"links to nothing": found.broken, "folders that cannot be read": list(found.closed)}
    ignored = layout.ignored | {reason: [path for path in paths if path not in used] for reason, paths in kinds.items()}
    there = table["path"].nunique() + len(layout.noise) + len(layout.companions) + sum(map(len, ignored.values()))
    level = logging.WARNING if any(layout.ignored.values()) else logging.INFO
    logger.log(level, "%s", summary("folder", table, label, there, ignored, len(layout.noise), len(layout.companions)))
    if label == TEXT:
        _log_without_text(table)
    elif label in table:
        values = pd.Series(sorted(set(table[label])))
        alike = values[values.str.casefold().duplicated(keep=False)]
        if len(alike):
            logger.warning("folder: labels that differ only in case are different labels: %s", examples(alike))


def _log_without_text(table: pd.DataFrame) -> None:
    without = table.loc[table[TEXT] == "", "path"]
    if len(without):
        logger.warning(
            "folder: %d of %d recordings have no text and are not used: %s", len(without), len(table), examples(without)
        )


def _speakers(paths: pd.Series, pattern: str) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"dataset.corpus.speaker_pattern={pattern} is not a regular expression ({error}): write one such as "
            "'^(.+)_nohash_'."
        ) from None
    if expression.groups < 1:
        raise UserError(
            f"dataset.corpus.speaker_pattern={pattern} has no group: put parentheses around the speaker, as in "
            "'^(.+)_nohash_'."
        )
    matches = [expression.search(composed(stem(path))) for path in paths]
    if unmatched := sum(match is None for match in matches):
        logger.warning("folder: no speaker found in %d of %d file names", unmatched, len(matches))
    return [(match[1] or "") if match else "" for match in matches]
