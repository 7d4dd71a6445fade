"""A user's table of recordings: which they are, what is known of them, and which part of a file each is."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import NO_ATTRIBUTES, Survey, attributes
from speechforget.data.tables.delimited import first_line, read_delimited
from speechforget.data.tables.spans import windows
from speechforget.data.tables.text import composed, spelling, tidy
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
SUBSET_COLUMNS = ("split", "set", "partition")
RESERVED = NO_ATTRIBUTES - {"id", "path", "subset", "start", "seconds"}
TELLING_WORDS = (
    "label class target category keyword command intent emotion text transcript transcription sentence speaker_id client_id "
    "start begin offset onset end stop duration seconds"
)
# What a table that lies in the folder holds at least one of, besides path, if it is about the recordings' labels.
TELLING = {
    *KNOWN[1:],
    *SUBSET_COLUMNS,
    *TELLING_WORDS.split(),
}


def find_manifest(root: Path, found: Survey) -> Path | None:
    """manifest.csv or manifest.tsv in the root, in whatever case. Raises UserError where there are both, or one of another kind."""
    named = [path for path in found.other if path.lower().startswith("manifest.")]
    tables = [path for path in named if path.lower() in ("manifest.csv", "manifest.tsv")]
    if len(tables) > 1:
        raise UserError(f"{root} holds {tables[0]} and {tables[1]}: keep one, or name it with dataset.corpus.manifest.")
    if named and not tables:
        raise UserError(
            f"{root} holds {named[0]}, and a manifest is a .csv or a .tsv: make it one of them, or give it another name."
        )
    return root / tables[0] if tables else None


def read_manifest(
    path: Path, root: Path, found: Survey, label: str | None, asked: bool
) -> tuple[pd.DataFrame, list[str]] | None:
    """The table of a corpus as its manifest says it, its index the manifest's lines, and what there is to say of how it was read.

    found: what lies in the root. label: a column that it must have, if any. asked: whether the user named it: one that was found, and says nothing of
    words, speakers, subsets or times, is none, which is logged, and the answer is None. Raises UserError for what makes no sense, naming the line.
    """
    table, said = read_delimited(path, "path")
    table, renamed = _named(path, table, label)
    missing = [column for column in ("path", label) if column is not None and column not in table]
    if (
        missing
        and not asked
        and label in ("word", "speaker")
        and not TELLING & {str(column).casefold() for column in table}
    ):
        logger.warning("folder: %s has no column '%s' and is not used; folder names are the labels", path, missing[0])
        return None
    if reserved := sorted((RESERVED - {"offset"}) & set(table.columns)):
        other = f", such as '{label}'" if missing and missing[0] == label else ""
        raise UserError(
            f"The manifest {path} has a column '{reserved[0]}', a name that is kept for the program: give it another{other}."
        )
    if missing:
        way_out = "" if asked else ", or take labels from folder names with dataset.corpus.manifest=false"
        raise UserError(
            f"The manifest {path} has no column '{missing[0]}': {nearest(missing[0], table.columns)}; name the column{way_out}."
        )
    table["path"] = _paths(path, table["path"], root, found)
    table, subset_said = _subsets(path, table)
    table, windows_said = windows(table, path, root)
    table, tidied = _tidied(table)
    further = [column for column in attributes(table) if column not in (*KNOWN, label)]
    if further:
        windows_said.append(f"further columns, kept as they are: {', '.join(further)}")
    if "id" not in table:
        table["id"] = ids_of(table["path"])
        if "start" in table:
            table["id"] += "@" + table["start"].map("{:.3f}".format)
    elif (table["id"] == "").any():
        raise UserError(
            f"The manifest {path} has a line without an id, line {first_line(table['id'] == '')}: fill it in."
        )
    return table, [*said, *renamed, *subset_said, *windows_said, *tidied]


def ids_of(paths: pd.Series) -> pd.Series:
    """A path's id: itself in Unicode's form NFC, the same on all file systems; as it is where two files differ in that alone."""
    ids = paths.map(composed)
    files = pd.DataFrame({"path": paths, "id": ids}).drop_duplicates()
    return ids.where(~ids.isin(files.loc[files["id"].duplicated(), "id"]), paths)


def _named(path: Path, table: pd.DataFrame, label: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Columns that are known in another case get their names."""
    wanted = {name.casefold(): name for name in (*KNOWN, *([label] if label is not None else []))}
    names = {
        column: wanted[column.casefold()]
        for column in map(str, table)
        if column not in wanted.values() and column.casefold() in wanted
    }
    for column, name in names.items():
        if name in table or list(names.values()).count(name) > 1:
            raise UserError(
                f"The manifest {path} has more than one column '{name}', one of them as '{column}': give one another name."
            )
    said = [f"column '{column}' is read as '{name}'" for column, name in names.items()]
    return table.rename(columns=names), said


def _paths(manifest: Path, listed: pd.Series, root: Path, found: Survey) -> list[str]:
    """Each listed path as it is spelt on the disk, where one file alone fits."""
    empty = listed.str.strip() == ""
    if empty.any():
        raise UserError(f"The manifest {manifest} has a line without a path, line {first_line(empty)}: fill it in.")
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
                f"The manifest {manifest} names {plain} in line {line}, which {len(fitting)} files may be: write it as on the disk."
            )
        paths.append(fitting[0] if fitting else written if (root / written).exists() else plain)
    return paths


def _subsets(path: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    said = []
    fitting = [
        column for column in map(str, table) if column.casefold() in SUBSET_COLUMNS and _are_subsets(table[column])
    ]
    if "subset" not in table and fitting:
        table, said = table.rename(columns={fitting[0]: "subset"}), [f"column '{fitting[0]}' is read as 'subset'"]
    subset = table["subset"].str.strip().str.lower() if "subset" in table else pd.Series("", index=table.index)
    wrong = ~subset.isin({*SUBSET_NAMES, ""})
    if wrong.any():
        line = first_line(wrong)
        known = nearest(subset[line], ("train", "validation", "test"))
        raise UserError(f"The manifest {path} has the subset '{subset[line]}', in line {line}: {known}.")
    return table.assign(subset=subset.map(SUBSET_NAMES).fillna("")), said


def _are_subsets(values: pd.Series) -> bool:
    said = set(values.str.strip().str.lower()) - {""}
    return bool(said) and said <= SUBSET_NAMES.keys()


def _tidied(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Attributes and ids without blanks at their ends, in one Unicode form: two spellings that look alike are one value."""
    changed: dict[str, int] = {}
    for column in [*attributes(table), *(["id"] if "id" in table else [])]:
        tidied = table[column].map(tidy)
        if count := int((tidied != table[column]).sum()):
            changed[column] = count
            table[column] = tidied
    if not changed:
        return table, []
    return table, [
        f"blanks at the ends, or another Unicode form, are evened out in {', '.join(f'{n} {column}s' for column, n in changed.items())}"
    ]
