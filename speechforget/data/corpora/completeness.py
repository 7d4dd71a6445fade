"""Check that a corpus is complete: compare its lists, or its published counts, with the files on the disk."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from speechforget.data.tables.text import showable
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

EXAMPLES = 3
LABELS = 12  # as many are shown
GO_ON = "or set dataset.corpus.complete=false to go on without them"


def examples(names: Iterable[str], limit: int = EXAMPLES) -> str:
    """Join the first names in alphabetical order."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (", ..." if len(ordered) > limit else "")


def contradictory(listed: pd.DataFrame, columns: Iterable[str]) -> pd.Series:
    """Mark the lines that contradict another line for the same path in one of `columns`. Returns bool (lines,)."""
    distinct = listed[["path", *columns]].drop_duplicates()
    return listed["path"].isin(distinct.loc[distinct["path"].duplicated(), "path"])


def check_lines(name: str, listed: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return each file of a corpus's lists once.

    listed: one row per line: path, and what the line says about it (subset, label ...). source: the lists in words.
    Repeated lines are logged. Raises UserError where two lines contradict each other about a file.
    """
    if not listed["path"].duplicated().any():
        return listed
    columns = [column for column in listed.columns if column != "path"]
    clashing = listed[contradictory(listed, columns)]
    if len(clashing):
        path = min(clashing["path"])
        lines = clashing.loc[clashing["path"] == path, columns].drop_duplicates()
        differs = next(column for column in columns if lines[column].nunique() > 1)
        values = " and with ".join(f"{differs} '{value}'" for value in lines[differs].unique()[:2])
        count = f"{clashing['path'].nunique():,} file{'s' * (clashing['path'].nunique() > 1)}"
        raise UserError(
            f"{name}: {source} contradict each other about {count}: {path} is listed with {values}; "
            "keep only the correct line for each file."
        )
    doubled = listed.loc[listed["path"].duplicated(), "path"].unique()
    logger.warning(
        "%s: %s list %d recordings more than once (%s): each is used once",
        name,
        source,
        len(doubled),
        examples(doubled),
    )
    return listed.drop_duplicates("path")


def check_listed(name: str, listed: pd.DataFrame, found: Collection[str], complete: bool, fix: str) -> pd.DataFrame:
    """Return the listed recordings that exist.

    listed: columns path and maybe speaker, each path once. found: paths on the disk, relative to the same folder. fix:
        what the user can do. complete: true raises a UserError that names missing files; false logs them and goes on.
    Files that no list names are logged and left out. Raises UserError, in any case, where none of the files exists.
    """
    names, there = set(listed["path"]), set(found)
    missing, unlisted = names - there, there - names
    if names and len(missing) == len(names):
        others = f"; {len(unlisted):,} other sound files are there ({examples(unlisted)})" if unlisted else ""
        raise UserError(
            f"{name}: none of the {len(names):,} listed recordings exists (for example {min(names)}){others}: {fix}."
        )
    extra = f"{len(unlisted):,} recordings are in no list and are left out ({examples(unlisted)})"
    if not missing:
        if unlisted:
            logger.warning("%s: %s", name, extra)
        return listed
    gone = listed["path"].isin(missing)
    count = f"{len(missing):,} of {len(names):,} listed recordings are missing ({examples(missing)})"
    renamed = f"; {extra}; were files renamed or moved?" if unlisted else ""
    report_missing(name, f"{count}{_by_speaker(listed, gone)}{renamed}", complete, fix)
    return listed[~gone].copy()


def _by_speaker(listed: pd.DataFrame, gone: pd.Series) -> str:
    if "speaker" not in listed:
        return ""
    promised, lacking = listed["speaker"].value_counts(), listed.loc[gone, "speaker"].value_counts().sort_index()
    return _lacking(
        "speaker", {str(who): (int(promised[who] - count), int(promised[who])) for who, count in lacking.items()}
    )


def check_counts(
    name: str,
    found: Mapping[str, int],
    usual: Mapping[str, int],
    promised: int,
    complete: bool,
    fix: str,
    who: str = "speaker",
) -> None:
    """Compare a corpus without lists with the number of recordings that its authors published.

    found: recordings of each speaker on the disk. usual: recordings of most speakers. promised: recordings in all,
        maybe fewer than the sum of `usual`. complete: true raises a UserError if recordings are missing; false logs
        them.
    More recordings than published are logged.
    """
    total = sum(found.values())
    if total > promised:
        logger.warning(
            "%s: %d recordings exist, but %d are published: are there copies among them?", name, total, promised
        )
    if total >= promised:
        return
    short = {
        speaker: (found.get(speaker, 0), count) for speaker, count in usual.items() if found.get(speaker, 0) < count
    }
    count = f"{promised - total:,} of {promised:,} recordings are missing"
    report_missing(name, f"{count}{_lacking(who, short)}", complete, fix)


def _lacking(who: str, short: Mapping[str, tuple[int, int]]) -> str:
    """List who has how many of how many, most missing first."""
    if not short:
        return ""
    order = sorted(short, key=lambda speaker: (short[speaker][0] - short[speaker][1], speaker))
    has = {speaker: f"{there:,} of {promised:,}" if there else "none" for speaker, (there, promised) in short.items()}
    shown = [f"{who} {speaker} has {has[speaker]}" for speaker in order[:EXAMPLES]]
    more = f", and {len(order) - EXAMPLES:,} more lack some" if len(order) > EXAMPLES else ""
    return f": {', '.join(shown)}{more}"


def report_missing(name: str, what: str, complete: bool, fix: str) -> None:
    """Raise UserError for what is missing, in words, if the corpus must be complete; else log it."""
    if complete:
        raise UserError(f"{name}: {what}. To fix this: {fix}, {GO_ON}.")
    logger.warning("%s: %s; going on without them (dataset.corpus.complete=false)", name, what)


def summary(
    name: str,
    table: pd.DataFrame,
    label: str,
    there: int,
    ignored: Mapping[str, Collection[str]],
    noise: int = 0,
    transcripts: int = 0,
) -> str:
    """Summarise in one line what was read from a folder: files, labels, speakers, and what was left out and why.

    there: number of files below the folder: those of the table, those of noise, transcripts, and the ignored ones
        (reason -> paths).
    """
    files = table["path"].nunique()
    windows = f" ({len(table):,} utterances)" if len(table) != files else ""
    parts = [f"read {files:,} of {there:,} files{windows}"]
    for column in dict.fromkeys((label, "speaker")):
        if column in table:
            values = sorted(set(table[column]) - {""})
            empty = int((table[column] == "").sum())
            unknown = f" ({empty:,} utterances have none)" if empty else ""
            shown = f": {examples(values, LABELS)}" if column == label and label != TEXT else ""
            parts.append(f"{len(values):,} {column}{'s' * (len(values) != 1)}{shown}{unknown}")
    if noise:
        parts.append(f"background noise: {noise:,}")
    if transcripts:
        parts.append(f"transcripts: {transcripts:,}")
    left = [f"{len(paths):,} {reason} ({examples(map(showable, paths))})" for reason, paths in ignored.items() if paths]
    return f"{name}: {', '.join(parts)}; ignored: {'; '.join(left) or 'none'}"
