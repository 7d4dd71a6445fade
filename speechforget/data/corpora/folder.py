"""The user's own recordings: one folder per label, or a manifest (CSV or TSV)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import Corpus, Survey, require_root, stem, survey
from speechforget.data.corpora.completeness import counts, examples
from speechforget.data.split import drawn_share, units
from speechforget.data.tables.layout import Layout, by_folder
from speechforget.data.tables.manifest import find_manifest, read_manifest
from speechforget.data.tables.text import composed
from speechforget.data.windows import check_apart
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

HOW = "Put recordings into FOLDER/<label>/<file>, or list them in FOLDER/manifest.csv with the columns path, word, speaker, subset."


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
    """Recordings of any rate, number of channels and format that libsndfile reads, below `root`. Opens no recording, unless lengths must be compared.

    manifest: a table (.csv or .tsv) with the column path, relative to the root, a column for the label, and maybe subset, id, and a window of a long
        recording (see `spans`); further columns are kept as attributes. Default: manifest.csv or manifest.tsv in the root if it is there, else
        folders: the first folder of a path is its word (its speaker when the label is speaker and no pattern says more). False: folders.
    folders: what the first folders are, labels or subsets; None: as their names tell (see `by_folder`).
    test: the seeded share that tests, of each label, where no subset says what does.
    speaker_pattern: a regular expression whose first group is the speaker, searched in file names, such as "^(.+)_nohash_".
    Logs one line of counts. Raises UserError where what lies there cannot be understood.
    """
    folder = require_root(root, "folder", HOW)
    found = survey(folder)
    layout, named = _read(folder, found, label, manifest, folders, speaker_pattern is not None)
    table = layout.table
    if speaker_pattern is not None:
        if "speaker" in table:
            layout.said.append(
                "speakers are those that dataset.corpus.speaker_pattern finds, not those of the manifest"
            )
        table["speaker"] = _speakers(table["path"], speaker_pattern)
    check_apart(table, lambda row: f"Line {layout.lines[row]} of the manifest {named}, '{table['id'].iloc[row]}'")
    _say(folder, found, layout, label, named)
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
    return Corpus("folder", folder, table, tuple(folder / path for path in layout.noise), table.assign(subset=kept))


def _read(
    folder: Path, found: Survey, label: str, manifest: str | bool | None, folders: str | None, pattern: bool
) -> tuple[Layout, Path | None]:
    """What manifest or folders say, and the manifest."""
    if manifest is True:
        raise UserError(
            "dataset.corpus.manifest is true: name the table, or leave it at null to find manifest.csv or manifest.tsv."
        )
    asked = manifest not in (None, False)
    named = (
        folder / Path(str(manifest)).expanduser()
        if asked
        else find_manifest(folder, found)
        if manifest is None
        else None
    )
    if named is not None:
        read = read_manifest(named, folder, found, None if label == "speaker" and pattern else label, asked)
        if read is not None and folders is not None:
            raise UserError(
                f"dataset.corpus.folders={folders} does not count beside the manifest {named}: leave it at null, or set manifest=false."
            )
        if read is not None:
            table, said = read
            ignored = {"not in the manifest": sorted(set(found.sounds) - set(table["path"]))}
            return Layout(table.reset_index(drop=True), ignored=ignored, said=said, lines=table.index.tolist()), named
    return by_folder(folder, found, "speaker" if label == "speaker" and not pattern else "word", folders, HOW), None


def _say(folder: Path, found: Survey, layout: Layout, label: str, manifest: Path | None) -> None:
    """One line of counts, and one for each thing that was read otherwise than it is written."""
    for note in layout.said:
        logger.warning("folder: %s%s", f"{manifest.name}: " if manifest is not None else "", note)
    table = layout.table
    used = {
        *table["path"],
        *([] if manifest is None or not manifest.is_relative_to(folder) else [manifest.relative_to(folder).as_posix()]),
    }
    kinds = {"not sound": found.other, "hidden": found.hidden, "links to a folder above them": found.above}
    kinds |= {"links to nothing": found.broken, "folders that cannot be read": list(found.closed)}
    ignored = layout.ignored | {reason: [path for path in paths if path not in used] for reason, paths in kinds.items()}
    read = len(set(table["path"]))
    there = read + len(layout.noise) + sum(map(len, ignored.values()))
    lost = any(layout.ignored.values())
    logger.log(
        logging.WARNING if lost else logging.INFO,
        "%s",
        counts("folder", table, label, there, ignored, len(layout.noise)),
    )
    if label in table:
        values = pd.Series(sorted(set(table[label])))
        alike = values[values.str.casefold().duplicated(keep=False)]
        if len(alike):
            logger.warning("folder: labels that differ in case alone are different ones: %s", examples(alike))


def _speakers(paths: pd.Series, pattern: str) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"dataset.corpus.speaker_pattern={pattern} is no regular expression ({error}): write one such as '^(.+)_nohash_'."
        ) from None
    if expression.groups < 1:
        raise UserError(
            f"dataset.corpus.speaker_pattern={pattern} has no group: put the speaker into brackets, as in '^(.+)_nohash_'."
        )
    matches = [expression.search(composed(stem(path))) for path in paths]
    if unmatched := sum(match is None for match in matches):
        logger.warning("folder: no speaker found in %d of %d file names", unmatched, len(matches))
    return [(match[1] or "") if match else "" for match in matches]
