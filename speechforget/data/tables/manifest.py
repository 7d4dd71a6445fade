"""The user's table of recordings: their paths, their attributes, and the part of a file that each one is."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import NO_ATTRIBUTES, Survey, attributes
from speechforget.data.tables.delimited import first_line, read_delimited
from speechforget.data.tables.spans import parse_windows
from speechforget.data.tables.text import composed, spelling, tidy
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError, nearest

logger = logging.getLogger(__name__)

KNOWN = ("path", "id", "word", "speaker", "subset")
SUBSET_NAMES = {
    name: subset
    for subset, names in {
        "train": "train training",
        "validation": "validation val valid dev development",
        "test": "test testing",
    }.items()
    for name in names.split()
}
TEXT_COLUMNS = ("transcript", "transcription", "sentence")  # a transcript, if there is no column `text`
SUBSET_COLUMNS = ("split", "set", "partition")
RESERVED = NO_ATTRIBUTES - {"id", "path", "subset", "start", "seconds"}
_OTHER_LABELS = "label class target category keyword command intent emotion text transcript transcription sentence"
_OTHER_SPEAKERS_AND_TIMES = "speaker_id client_id start begin offset onset end stop duration seconds"
# A table in the folder is a manifest if it has, besides path, at least one of these columns.
TELLING = {*KNOWN[1:], *SUBSET_COLUMNS, *_OTHER_LABELS.split(), *_OTHER_SPEAKERS_AND_TIMES.split()}


def find_manifest(root: Path, found: Survey) -> Path | None:
    """Find manifest.csv or manifest.tsv, in any case, in the root. Raises UserError for both, or for another kind."""
    named = [path for path in found.other if path.lower().startswith("manifest.")]
    tables = [path for path in named if path.lower() in ("manifest.csv", "manifest.tsv")]
    if len(tables) > 1:
        raise UserError(
            f"{root} holds {tables[0]} and {tables[1]}: keep one of them, or choose one with dataset.corpus.manifest."
        )
    if named and not tables:
        raise UserError(
            f"{root} holds {named[0]}, but a manifest must be a .csv or .tsv file: convert it, or rename it if it "
            "is no manifest."
        )
    return root / tables[0] if tables else None


def read_manifest(
    path: Path, root: Path, found: Survey, label: str | None, asked: bool
) -> tuple[pd.DataFrame, list[str]] | None:
    """Read a manifest. Return its utterances, indexed by line number, with notes on how it was read.

    found: the files below the root. label: a column that the manifest must have, if any. asked: whether the user named
        the manifest. A table that was only found, and holds no words, speakers, subsets or times, is no manifest: this
        is logged, and None is returned.
    Raises UserError, with the line, for what cannot be understood.
    """
    name = f"The manifest {path}"
    table, notes = read_delimited(path, "path")
    table, renamed = _named(name, table, label)
    missing = [column for column in ("path", label) if column is not None and column not in table]
    told = TELLING & {str(column).casefold() for column in table}
    if missing and not asked and label in ("word", "speaker") and not told:
        logger.warning("folder: %s has no column '%s' and is ignored; folder names are the labels", path, missing[0])
        return None
    if reserved := sorted((RESERVED - {"offset"}) & set(table.columns)):
        other = f", for example to '{label}'" if missing and missing[0] == label else ""
        raise UserError(
            f"{name}: the column name '{reserved[0]}' is reserved for the program: rename the column{other}."
        )
    if missing:
        source = "transcripts from files beside the recordings" if label == TEXT else "labels from folder names"
        way_out = "" if asked else f", or take the {source} with dataset.corpus.manifest=false"
        raise UserError(
            f"{name} has no column '{missing[0]}': {nearest(missing[0], table.columns)}; "
            f"add or rename this column{way_out}."
        )
    table["path"] = _paths(name, table["path"], root, found)
    table, subset_notes = _subsets(name, table)
    table, window_notes = parse_windows(table, path, root)
    table, tidied = _tidied(table)
    further = [column for column in attributes(table) if column not in (*KNOWN, label)]
    if further:
        window_notes.append(f"other columns are kept as attributes: {', '.join(further)}")
    if "id" not in table:
        table["id"] = ids_of(table["path"])
        if "start" in table:
            table["id"] += "@" + table["start"].map("{:.3f}".format)
    elif (table["id"] == "").any():
        raise UserError(
            f"{name}, line {first_line(table['id'] == '')}: the id is empty: fill it in, or delete the column id."
        )
    return table, [*notes, *renamed, *subset_notes, *window_notes, *tidied]


def ids_of(paths: pd.Series) -> pd.Series:
    """Make ids of paths: Unicode form NFC, the same on all file systems; unchanged where two files would get one id."""
    ids = paths.map(composed)
    files = pd.DataFrame({"path": paths, "id": ids}).drop_duplicates()
    return ids.where(~ids.isin(files.loc[files["id"].duplicated(), "id"]), paths)


def _named(manifest: str, table: pd.DataFrame, label: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Rename columns that differ from a known name only in case, and the one that means the text, if that is asked."""
    wanted = {name.casefold(): name for name in (*KNOWN, *([label] if label is not None else []))}
    names = {
        column: wanted[column.casefold()]
        for column in map(str, table)
        if column not in wanted.values() and column.casefold() in wanted
    }
    transcripts = [column for column in map(str, table) if column.casefold() in TEXT_COLUMNS]
    if label == TEXT and TEXT not in {*map(str, table), *names.values()} and len(transcripts) == 1:
        names[transcripts[0]] = TEXT
    for column, name in names.items():
        if name in table or list(names.values()).count(name) > 1:
            raise UserError(
                f"{manifest} has more than one column '{name}', one of them written '{column}': rename one of them."
            )
    return table.rename(columns=names), [f"column '{column}' is read as '{name}'" for column, name in names.items()]


def _paths(manifest: str, listed: pd.Series, root: Path, found: Survey) -> list[str]:
    """Return each listed path as it is spelt on the disk, where exactly one file fits."""
    empty = listed.str.strip() == ""
    if empty.any():
        raise UserError(f"{manifest}, line {first_line(empty)}: the path is empty: fill it in, or delete the line.")
    there = set(found.sounds)
    spelt: dict[str, list[str]] = {}
    for path in found.sounds if not there.issuperset(listed) else ():
        spelt.setdefault(spelling(path), []).append(path)
    paths = []
    for line, written in listed.items():
        if written in there:
            paths.append(written)
            continue
        plain = spelling(written).removeprefix(f"{root.absolute().as_posix()}/")
        fitting = spelt.get(plain, [])
        if len(fitting) > 1:
            raise UserError(
                f"{manifest}, line {line}: {len(fitting)} files fit the path {plain}: write it exactly as on the disk."
            )
        paths.append(fitting[0] if fitting else written if (root / written).exists() else plain)
    return paths


def _subsets(manifest: str, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    notes = []
    fitting = [
        column for column in map(str, table) if column.casefold() in SUBSET_COLUMNS and _are_subsets(table[column])
    ]
    if "subset" not in table and fitting:
        table, notes = table.rename(columns={fitting[0]: "subset"}), [f"column '{fitting[0]}' is read as 'subset'"]
    subset = table["subset"].str.strip().str.lower() if "subset" in table else pd.Series("", index=table.index)
    wrong = ~subset.isin({*SUBSET_NAMES, ""})
    if wrong.any():
        line = first_line(wrong)
        known = nearest(subset[line], ("train", "validation", "test"))
        raise UserError(f"{manifest}, line {line}: the subset '{subset[line]}' is unknown: {known}.")
    return table.assign(subset=subset.map(SUBSET_NAMES).fillna("")), notes


def _are_subsets(values: pd.Series) -> bool:
    written = set(values.str.strip().str.lower()) - {""}
    return bool(written) and written <= SUBSET_NAMES.keys()


def _tidied(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Tidy attributes and ids, so that two spellings that look the same are one value."""
    changed: dict[str, int] = {}
    for column in [*attributes(table), *(["id"] if "id" in table else [])]:
        tidied = table[column].map(tidy)
        if count := int((tidied != table[column]).sum()):
            changed[column] = count
            table[column] = tidied
    if not changed:
        return table, []
    where = ", ".join(f"{count} {column}s" for column, count in changed.items())
    return table, [f"spaces at the ends, or another Unicode form, are normalised in {where}"]
