"""LibriSpeech for speaker identification and speech recognition; CC BY 4.0.

Panayotov, Chen, Povey & Khudanpur, ICASSP 2015.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import Corpus, identities, recordings, require_label, require_root
from speechforget.data.corpora.completeness import check_counts, check_lines, check_listed, examples, report_missing
from speechforget.data.corpora.speaker_split import test_subset
from speechforget.data.tables.text import read_lines
from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError, nearest
from speechforget.seeding import uniform
from speechforget.store.dry_run import refuse_in_dry_run

logger = logging.getLogger(__name__)

ARCHIVE, SPEAKERS = "LibriSpeech", "SPEAKERS.TXT"
# Recordings and speakers of each subset.
PUBLISHED = {
    "train-clean-100": (28539, 251),
    "train-clean-360": (104014, 921),
    "train-other-500": (148688, 1166),
    "dev-clean": (2703, 40),
    "dev-other": (2864, 33),
    "test-clean": (2620, 40),
    "test-other": (2939, 33),
}
HOW = (
    "Unpack https://www.openslr.org/resources/12/train-clean-100.tar.gz (6.3 GB, CC BY 4.0) there, "
    "or set dataset.corpus.download=true where there is a network."
)
NAME = re.compile(r"(?P<speaker>\d+)/(?P<chapter>\d+)/(?P=speaker)-(?P=chapter)-\d+\.flac")
GENDERS = {"M": "male", "F": "female"}


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    subsets: Collection[str] = ("train-clean-100",),
    test: float = 0.2,
    complete: bool = True,
    download: bool = False,
    seed: int = 0,
) -> Corpus:
    """Index the corpus in its own layout: LibriSpeech/<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac.

    Columns: speaker, chapter (the session), part (the subset it comes from), if SPEAKERS.TXT exists, gender, and, for
        label text, text, from the transcripts of the chapters.
    subsets: the subsets of the corpus to use, all for closed-set identification: their speakers are disjoint.
    test: the share of the recordings that test. For label speaker, whole chapters test: speakers come in random order,
        each with the chapter nearest to the share of their recordings, until the share of all is reached. Every speaker
        keeps at least one chapter to train on. Chapters are long, so not every speaker is tested; the log says how many
        are. For other labels, such as gender, whole speakers test.
    complete: true raises a UserError if there are fewer recordings than published, or if a text is missing; false logs
        this and goes on.
    download: true downloads missing subsets to the root.
    """
    top = _top(root, subsets, download)
    if not 0 < test < 1:
        raise UserError(f"dataset.corpus.test is {test}: give the share of test recordings, between 0 and 1.")
    genders = _genders(top)
    parts = [_subset(top, subset, genders, complete) for subset in sorted(set(subsets))]
    if label == TEXT:
        parts = [_with_texts(part, top, complete) for part in parts]
    table = pd.concat(parts, ignore_index=True)
    require_label(table, label, "librispeech")
    by_chapter = label == "speaker"
    table.insert(
        2,
        "subset",
        np.where(_tested(table, test, seed), "test", "") if by_chapter else test_subset(table, label, test, seed),
    )
    table = table.sort_values("id", ignore_index=True)
    return Corpus("librispeech", top, table, steady=table.drop(columns="subset"))


def _top(root: str | Path | None, subsets: Collection[str], download: bool) -> Path:
    """Find the folder that holds all the subsets."""
    if isinstance(subsets, str) or not subsets:
        raise UserError(f"dataset.corpus.subsets is {subsets!r}: give a list, such as [train-clean-100].")
    if download and root is not None:
        Path(root).expanduser().mkdir(parents=True, exist_ok=True)
    top = require_root(root, "librispeech", HOW)
    folders = [top / ARCHIVE, top]
    for subset in subsets:
        if not any((folder / subset).is_dir() for folder in folders):
            if download and subset in PUBLISHED:
                _download(top, subset)
            else:
                raise UserError(_absent(subset, folders))
    for folder in folders:
        if all((folder / subset).is_dir() for subset in subsets):
            return folder
    raise UserError(
        f"The subsets {', '.join(subsets)} are partly in {top} and partly in {top / ARCHIVE}: move them into one "
        "folder."
    )


def _absent(subset: str, folders: list[Path]) -> str:
    there = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir())
    known = {*PUBLISHED, *(path.name for path in there if path.name != ARCHIVE)}
    hint = HOW if subset in PUBLISHED else f"Of subsets {nearest(subset, known)}."
    return (
        f"{folders[1]} is not LibriSpeech with the subset {subset} (dataset.corpus.subsets): it has no folder "
        f"{ARCHIVE}/{subset}. {hint}"
    )


def _download(top: Path, subset: str) -> None:
    from speechforget._torchaudio import torchaudio

    refuse_in_dry_run(top)
    logger.info("librispeech: downloading %s to %s", subset, top)
    try:
        torchaudio.datasets.LIBRISPEECH(str(top), url=subset, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"LibriSpeech's {subset} could not be downloaded ({error}): check the network, or download it on another "
            f"machine. {HOW}"
        ) from error


def _genders(top: Path) -> dict[str, tuple[str, str]]:
    """Read speaker -> (subset, gender) from SPEAKERS.TXT; empty if the file is missing."""
    path = top / SPEAKERS
    if not path.is_file():
        logger.warning("librispeech: %s is missing, so genders are unknown", path)
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = [field.strip() for field in line.split("|", maxsplit=4)]
        if not line.startswith(";") and len(fields) >= 3:
            found[fields[0]] = (fields[2], GENDERS.get(fields[1].upper(), ""))
    return found


def _subset(top: Path, subset: str, genders: Mapping[str, tuple[str, str]], complete: bool) -> pd.DataFrame:
    paths = recordings(top / subset)
    matches = [match for path in paths if (match := NAME.fullmatch(path))]
    if not matches:
        raise UserError(
            f"{top / subset} has no recordings named <speaker>/<chapter>/<speaker>-<chapter>-<number>.flac: unpack the "
            f"archive again. {HOW}"
        )
    rows = [
        {"id": f"{subset}/{match[0]}", "path": f"{subset}/{match[0]}", **match.groupdict(), "part": subset}
        for match in matches
    ]
    table = pd.DataFrame(rows, dtype=str)
    _check(top, subset, table, genders, complete)
    if genders:
        table["gender"] = [genders.get(speaker, ("", ""))[1] for speaker in table["speaker"]]
    if len(matches) < len(paths):
        logger.warning(
            "librispeech: %d files in %s do not have names of recordings and are left out",
            len(paths) - len(matches),
            top / subset,
        )
    return table


def _check(top: Path, subset: str, table: pd.DataFrame, genders: Mapping[str, tuple[str, str]], complete: bool) -> None:
    """Compare with the published counts; if recordings are missing, read the transcripts to name them."""
    promised, speakers = PUBLISHED.get(subset, (len(table), table["speaker"].nunique()))
    fix = f"download {subset}.tar.gz again"
    if len(table) < promised:
        named = _transcribed(top / subset)
        check_listed(
            f"librispeech {subset}",
            named,
            set(named["path"]) & set(table["path"].str.removeprefix(f"{subset}/")),
            complete,
            fix,
        )
    counts = {str(speaker): int(count) for speaker, count in table["speaker"].value_counts().items()}
    absent = {speaker: 1 for speaker, (part, _) in genders.items() if part == subset}
    check_counts(f"librispeech {subset}", counts, absent, promised, complete, fix)
    if len(counts) != speakers:
        logger.warning("librispeech: %s has %d speakers, but %d are published", subset, len(counts), speakers)


def _transcribed(folder: Path) -> pd.DataFrame:
    """List the recordings that the transcripts of the chapters name, with their speaker and text."""
    rows = []
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        chapter = transcript.relative_to(folder).parent
        lines = read_lines(transcript, f"The transcript {transcript}", "unpack the archive again")
        for name, *words in map(str.split, filter(str.strip, lines)):
            rows.append((f"{chapter.as_posix()}/{name}.flac", chapter.parts[0], " ".join(words)))
    return pd.DataFrame(rows, columns=["path", "speaker", TEXT], dtype=str)


def _with_texts(table: pd.DataFrame, top: Path, complete: bool) -> pd.DataFrame:
    """Add the text of each recording of a subset, "" where no transcript has it."""
    subset = table["part"].iloc[0]
    name = f"librispeech {subset}"
    listed = check_lines(name, _transcribed(top / subset), "the transcripts of the chapters (.trans.txt)")
    texts = listed.set_index("path")[TEXT]
    table = table.assign(text=table["path"].str.removeprefix(f"{subset}/").map(texts).fillna(""))
    if len(without := table.loc[table[TEXT] == "", "path"]):
        what = f"{len(without):,} of {len(table):,} recordings have no text in the transcripts ({examples(without)})"
        report_missing(name, what, complete, f"unpack {subset}.tar.gz again")
    return table


def _tested(table: pd.DataFrame, test: float, seed: int) -> pd.Series:
    """Choose the rows that test, in whole chapters. Returns bool (rows,)."""
    names = table["speaker"] + "/" + table["chapter"]
    chapters = (
        table.assign(name=names)
        .groupby("name", sort=True)
        .agg(speaker=("speaker", "first"), size=("speaker", "size"))
        .reset_index()
    )
    candidates = _candidates(chapters, test, seed)
    single = int((chapters["speaker"].value_counts() == 1).sum())
    # Take a chapter if it brings the number of test recordings nearer to the share.
    wanted, reached, chosen = test * len(table), 0, set()
    for name, size in zip(candidates["name"], candidates["size"], strict=True):
        if abs(reached + size - wanted) < abs(reached - wanted):
            chosen.add(name)
            reached += size
    tested = names.isin(chosen)
    speakers, heard = table["speaker"].nunique(), table.loc[tested, "speaker"].nunique()
    counted = f"{reached:,} of {len(table):,} recordings test, in whole chapters of {heard} of {speakers} speakers"
    logger.info("librispeech: %s; %d speakers have a single chapter, which trains", counted, single)
    if not chosen:
        raise UserError(
            f"librispeech: no chapter can test, because {single} of {speakers} speakers have only one, or because "
            "chapters are too long for the share: set dataset.corpus.test nearer to 0.5."
        )
    return tested


def _candidates(chapters: pd.DataFrame, test: float, seed: int) -> pd.DataFrame:
    """Order the chapters that may test, all but one of each speaker: nearest to the share first, speakers at random."""
    drawn = uniform(identities(chapters["name"]), 1, seed, "test chapters")[:, 0]
    speakers = pd.Series(chapters["speaker"].unique())
    turn = dict(zip(speakers, uniform(identities(speakers), 1, seed, "test speakers")[:, 0], strict=True))
    total = chapters.groupby("speaker")["size"].transform("sum")
    ordered = chapters.assign(
        off=(chapters["size"] - test * total).abs(), drawn=drawn, turn=chapters["speaker"].map(turn)
    )
    ordered = ordered.sort_values(["turn", "speaker", "off", "drawn"])
    number = ordered.groupby("speaker").cumcount()
    left = ordered.groupby("speaker")["size"].transform("size") - number
    return ordered.assign(number=number)[left > 1].sort_values(["number", "turn", "speaker"], kind="stable")
