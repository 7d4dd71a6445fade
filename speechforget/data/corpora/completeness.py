"""Whether a corpus is all there: what its lists or its paper promise against what lies on the disk, said in one sentence."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from speechforget.data.tables.text import showable
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

EXAMPLES = 3
LABELS = 12  # so many are named
GO_ON = "or set dataset.corpus.complete=false to go on without them"


def examples(names: Iterable[str], limit: int = EXAMPLES) -> str:
    """The first names, in order."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (", ..." if len(ordered) > limit else "")


def contradictory(listed: pd.DataFrame, columns: Iterable[str]) -> pd.Series:
    """Lines that say something else of their `path` in one of `columns` than another line, bool (lines,)."""
    distinct = listed[["path", *columns]].drop_duplicates()
    return listed["path"].isin(distinct.loc[distinct["path"].duplicated(), "path"])


def check_lines(name: str, listed: pd.DataFrame, source: str) -> pd.DataFrame:
    """The lines of a corpus's lists, each file once.

    listed: one row per line, columns path and what the line says of it (subset, label ...). source: the lists, in words.
    Lines that are there twice are logged. Raises UserError where two lines disagree about a file.
    """
    if not listed["path"].duplicated().any():
        return listed
    said = [column for column in listed.columns if column != "path"]
    clashing = listed[contradictory(listed, said)]
    if len(clashing):
        path = min(clashing["path"])
        lines = clashing.loc[clashing["path"] == path, said].drop_duplicates()
        differs = next(column for column in said if lines[column].nunique() > 1)
        values = " and with ".join(f"{differs} '{value}'" for value in lines[differs].unique()[:2])
        count = f"{clashing['path'].nunique():,} file{'s' * (clashing['path'].nunique() > 1)}"
        raise UserError(
            f"{name}: {source} contradict themselves about {count}: {path} is listed with {values}; keep the right line of each."
        )
    kept = listed.drop_duplicates("path")
    doubled = listed.loc[listed["path"].duplicated(), "path"].unique()
    logger.warning(
        "%s: %s name %d recordings more than once (%s): each is used once",
        name,
        source,
        len(doubled),
        examples(doubled),
    )
    return kept


def check_listed(name: str, listed: pd.DataFrame, found: Collection[str], complete: bool, fix: str) -> pd.DataFrame:
    """The listed recordings that are there.

    listed: columns path and maybe speaker, each path once. found: the paths that lie on the disk, said from the same folder. fix: what mends it.
    Files that no list names are logged and left out. Raises UserError naming what is missing, unless `complete` is false: then it is logged.
    """
    names, there = set(listed["path"]), set(found)
    missing, unlisted = names - there, there - names
    if names and len(missing) == len(names):
        lies = f"; {len(unlisted):,} other sound files lie there ({examples(unlisted)})" if unlisted else ""
        raise UserError(
            f"{name}: not one of {len(names):,} listed recordings is there (such as {min(names)}){lies}: {fix}."
        )
    extra = f"{len(unlisted):,} recordings are in no list and are left out ({examples(unlisted)})"
    if not missing:
        if unlisted:
            logger.warning("%s: %s", name, extra)
        return listed
    gone = listed["path"].isin(missing)
    says = f"{len(missing):,} of {len(names):,} listed recordings are missing ({examples(missing)}){_by_speaker(listed, gone)}"
    says += f"; {extra}; were files renamed or moved?" if unlisted else ""
    _missing(name, says, complete, fix)
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
    """Compares a corpus that has no list with the number of recordings that its authors published.

    found: recordings of each speaker that lie on the disk. usual: how many most speakers have. promised: how many there are in all, which may be
    less than all of `usual` together. Raises UserError when fewer are there, unless `complete` is false; more are logged.
    """
    total = sum(found.values())
    if total > promised:
        logger.warning(
            "%s: %d recordings are there, and %d are published: are there copies among them?", name, total, promised
        )
    if total >= promised:
        return
    short = {
        speaker: (found.get(speaker, 0), count) for speaker, count in usual.items() if found.get(speaker, 0) < count
    }
    _missing(name, f"{promised - total:,} of {promised:,} recordings are missing{_lacking(who, short)}", complete, fix)


def _lacking(who: str, short: Mapping[str, tuple[int, int]]) -> str:
    """Who has how many of how many; those who lack most come first."""
    if not short:
        return ""
    order = sorted(short, key=lambda speaker: (short[speaker][0] - short[speaker][1], speaker))
    has = {speaker: f"{there:,} of {promised:,}" if there else "none" for speaker, (there, promised) in short.items()}
    shown = [f"{who} {speaker} has {has[speaker]}" for speaker in order[:EXAMPLES]]
    more = f", and {len(order) - EXAMPLES:,} more lack some" if len(order) > EXAMPLES else ""
    return f": {', '.join(shown)}{more}"


def _missing(name: str, says: str, complete: bool, fix: str) -> None:
    if complete:
        raise UserError(f"{name}: {says}. To mend it: {fix}, {GO_ON}.")
    logger.warning("%s: %s; going on without them (dataset.corpus.complete=false)", name, says)


def counts(
    name: str, table: pd.DataFrame, label: str, there: int, ignored: Mapping[str, Collection[str]], noise: int = 0
) -> str:
    """One line on what was read of a folder: files, labels, speakers, and what was left out for what reason.

    there: files below the folder. They are those of the table and of noise, and the ignored ones (reason -> paths).
    """
    files = table["path"].nunique()
    windows = f" ({len(table):,} utterances)" if len(table) != files else ""
    said = [f"read {files:,} of {there:,} files{windows}"]
    for column in dict.fromkeys((label, "speaker")):
        if column in table:
            values = sorted(set(table[column]) - {""})
            unknown = (
                f" ({int((table[column] == '').sum()):,} utterances have none)" if (table[column] == "").any() else ""
            )
            shown = f": {examples(values, LABELS)}" if column == label else ""
            said.append(f"{len(values):,} {column}{'s' * (len(values) != 1)}{shown}{unknown}")
    if noise:
        said.append(f"background noise: {noise:,}")
    left = [f"{len(paths):,} {reason} ({examples(map(showable, paths))})" for reason, paths in ignored.items() if paths]
    return f"{name}: {', '.join(said)}; ignored: {'; '.join(left) or 'none'}"
