"""Speech Commands v0.02 (Warden, arXiv:1804.03209): 35 words, 105,829 recordings, CC BY 4.0."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from speechforget.data.corpora.base import Corpus, identities, recordings, require_root
from speechforget.data.corpora.completeness import check_listed
from speechforget.data.split import drawn_share
from speechforget.errors import UserError
from speechforget.seeding import order
from speechforget.store.dry_run import refuse_in_dry_run

logger = logging.getLogger(__name__)

TEN_WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
NOISE = "_background_noise_"
ARCHIVE = "speech_commands_v0.02"
HOW = (
    f"Unpack http://download.tensorflow.org/data/{ARCHIVE}.tar.gz (2.4 GB, CC BY 4.0) there, "
    "or set dataset.corpus.download=true where there is a network."
)
NAME = re.compile(r"(?P<word>[^/]+)/(?P<speaker>[^/]+)_nohash_(?P<take>\d+)\.wav")
PUBLISHED = 105_829  # recordings of words in the whole archive
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# Parts of each noise recording that silence is cut from. The first fifth is left for noise augmentation.
PARTS = {"train": (0.2, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
# Seconds. Windows of two stretches never overlap, and a stretch goes to one subset and one request as a whole.
STRETCH, WINDOW = 2.0, 1.0
MILLISECOND = 0.001


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    classes: int = 12,
    unknown: float = 0.1,
    silence: float = 0.1,
    test: float = 0.2,
    fewest: int = 10,
    complete: bool = True,
    download: bool = False,
    seed: int = 0,
) -> Corpus:
    """Index <word>/<speaker>_nohash_<take>.wav, _background_noise_/, validation_list.txt and testing_list.txt.

    For label "word" the official lists say what validates and tests; their speakers are disjoint. classes=35 uses all
    words. classes=12 uses ten words, `unknown` (other words, drawn by seed; the column spoken keeps the word) and
    `silence` (see `silence_windows`; ids `file@start`). The numbers of both are shares of the ten words' utterances,
    in each subset, as published.

    For label "speaker" the share `test` of each speaker's utterances tests, drawn by seed. Speakers with fewer than
    `fewest` utterances are left out.

    complete: true raises a UserError that names recordings that the lists name and that do not exist; false logs them.
    download: true downloads the corpus to the root if it does not exist.
    """
    folder = _folder(root, download)
    if classes not in {12, 35}:
        raise UserError(
            f"dataset.corpus.classes is {classes}: choose 12 (ten words, unknown, silence) or 35 (all words)."
        )
    for name, share in {"unknown": unknown, "silence": silence}.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise UserError(
                f"dataset.corpus.{name} is {share}: give a share of the ten words' utterances, from 0 to 1."
            )
    table = words("speech_commands", folder, complete)
    steady: pd.DataFrame | None = None
    compare_count("speech_commands", len(table), PUBLISHED, "recordings of words")
    noise = noises(folder)
    if label == "speaker":
        table = _by_speaker(table, test, fewest, seed)
        steady = table.drop(columns="subset").sort_values("id")
    elif classes == 12:
        steady = table[table["word"].isin(TEN_WORDS)].sort_values("id")
        table = _twelve(table, folder, noise, unknown, silence, seed)
    return Corpus("speech_commands", folder, table.sort_values("id", ignore_index=True), noise, steady)


def _folder(root: str | Path | None, download: bool) -> Path:
    if download and root is not None:
        Path(root).expanduser().mkdir(parents=True, exist_ok=True)
    top = require_root(root, "speech_commands", HOW)
    folders = [top, top / ARCHIVE, top / "SpeechCommands" / ARCHIVE]
    if download and not any((folder / LISTS["test"]).exists() for folder in folders):
        _download(top)
    for folder in folders:
        if all((folder / name).exists() for name in LISTS.values()):
            return folder
    raise UserError(f"{top} is not Speech Commands v0.02: it has no {LISTS['validation']} and {LISTS['test']}. {HOW}")


def _download(top: Path) -> None:
    from speechforget._torchaudio import torchaudio

    refuse_in_dry_run(top)
    logger.info("speech_commands: downloading 2.4 GB to %s", top)
    try:
        torchaudio.datasets.SPEECHCOMMANDS(str(top), url=ARCHIVE, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Speech Commands could not be downloaded ({error}): check the network, or download it on another "
            f"machine. {HOW}"
        ) from error


def words(name: str, folder: Path, complete: bool) -> pd.DataFrame:
    """List the recordings of words: one row each, with the subset that the two lists give, else train. Ids are paths.

    name: the corpus, for messages. Raises UserError for listed recordings that do not exist, unless `complete` is
        false.
    """
    matches = [match for path in recordings(folder) if not path.startswith(NOISE) and (match := NAME.fullmatch(path))]
    rows = [
        {"id": match[0], "path": match[0], "word": match["word"], "speaker": match["speaker"], "take": match["take"]}
        for match in matches
    ]
    table = pd.DataFrame(rows, columns=["id", "path", "word", "speaker", "take"], dtype=str)
    subset_of = {
        path: subset for subset, file in LISTS.items() for path in (folder / file).read_text(encoding="utf-8").split()
    }
    listed = pd.DataFrame({"path": sorted(subset_of)}, dtype=str)
    # Recordings that no list names train, so they are not reported.
    check_listed(
        name, listed, subset_of.keys() & set(table["path"]), complete, f"unpack the archive again into {folder}"
    )
    table.insert(2, "subset", table["path"].map(subset_of).fillna("train"))
    return table.assign(spoken=table["word"])


def compare_count(name: str, count: int, published: int, what: str) -> None:
    """Log the number of recordings if it is not the published one. To use a part of a corpus is no error."""
    if count != published:
        logger.info(
            "%s: %d %s here, %d in the whole corpus: do not compare accuracies with published ones",
            name,
            count,
            what,
            published,
        )


def noises(folder: Path) -> tuple[Path, ...]:
    """List the recordings of background noise."""
    return tuple(folder / NOISE / path for path in recordings(folder / NOISE)) if (folder / NOISE).is_dir() else ()


def _by_speaker(table: pd.DataFrame, test: float, fewest: int, seed: int) -> pd.DataFrame:
    if not 0 < test < 1:
        raise UserError(
            f"dataset.corpus.test is {test}: give the share of each speaker's utterances that test, between 0 and 1."
        )
    frequent = table.groupby("speaker")["id"].transform("size") >= fewest
    logger.info(
        "speech_commands: %d of %d speakers have %d utterances or more",
        table[frequent]["speaker"].nunique(),
        table["speaker"].nunique(),
        fewest,
    )
    table = table[frequent]
    return table.assign(subset=np.where(drawn_share(table, test, "speaker", "test", seed), "test", ""))


def _twelve(
    table: pd.DataFrame, folder: Path, noise: tuple[Path, ...], unknown: float, silence: float, seed: int
) -> pd.DataFrame:
    wanted = table["word"].isin(TEN_WORDS)
    parts = [table[wanted]]
    for subset in PARTS:
        here = table["subset"] == subset
        count = int((wanted & here).sum())
        others = table[~wanted & here]
        numbers = identities(others["id"])
        chosen = order(numbers, seed, "unknown")[: round(unknown * count)]
        parts.append(others[np.isin(numbers, chosen)].assign(word="unknown"))
        parts.append(silence_windows(folder, noise, subset, round(silence * count), seed))
    return pd.concat(parts, ignore_index=True).fillna({"start": 0.0})


def silence_windows(folder: Path, noise: tuple[Path, ...], subset: str, count: int, seed: int) -> pd.DataFrame:
    """Cut `count` one-second windows, drawn by seed, from the subset's part of the noise, in stretches of two seconds.

    Windows of two stretches never overlap. Windows of one stretch overlap if more are needed than there are seconds:
    in the whole v0.02, 3,077 windows come from about 118 stretches, 27 of each. A stretch is one unit of `split`: it
    goes to training, to the holdout or into a request as a whole. So counts are the published ones, and no second of
    noise is on two sides. If a window would begin less than a millisecond after another, fewer are cut, and the log
    says so.
    """
    if count and not noise:
        raise UserError(
            f"{folder} has no sound files in {NOISE} to cut silence from: restore them, or set "
            "dataset.corpus.silence=0."
        )
    stretches = [(path, *stretch) for path in noise for stretch in _stretches(_seconds(path), *PARTS[subset])]
    each = -(-count // max(len(stretches), 1))  # windows per stretch
    starts = [
        (path.relative_to(folder).as_posix(), start)
        for path, first, last in stretches
        for start in _starts(first, last, each)
    ]
    rows = pd.DataFrame(
        [{"id": f"{path}@{start:.3f}", "path": path, "start": start} for path, start in starts],
        columns=["id", "path", "start"],
    )
    if len(rows) < count:
        logger.warning(
            "%s: the noise has room for %d windows of silence for %s, not for %d", folder, len(rows), subset, count
        )
    numbers = identities(rows["id"])
    rows = rows[np.isin(numbers, order(numbers, seed, "silence")[:count])]
    return rows.assign(seconds=WINDOW, subset=subset, word="silence", speaker="", take="", spoken="")


def _stretches(seconds: float, first: float, last: float) -> list[tuple[int, int]]:
    """Cut a part of a recording into stretches (begin, end) in milliseconds; a shorter part is one stretch."""
    begin, end = round(np.ceil(seconds * first / MILLISECOND)), int(seconds * last / MILLISECOND)
    step = round(STRETCH / MILLISECOND)
    if end - begin < step:
        return [(begin, end)] if end - begin >= WINDOW / MILLISECOND else []
    return [(start, start + step) for start in range(begin, end - step + 1, step)]


def _starts(first: int, last: int, count: int) -> list[float]:
    """Return the starts of at least `count` windows of a stretch in seconds: evenly, if possible without overlap."""
    window = round(WINDOW / MILLISECOND)
    step = min(window, max(1, (last - window - first) // max(count - 1, 1)))
    return [round(start * MILLISECOND, 3) for start in range(first, last - window + 1, step)]


def _seconds(path: Path) -> float:
    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(
            f"The background noise {path} cannot be read ({error}): restore it, or set dataset.corpus.silence=0."
        ) from None
