"""Speech Commands v0.02 (Warden, arXiv:1804.03209): 35 words, 105,829 recordings, CC BY 4.0."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from speechforget.data.corpora.base import Corpus, identities, recordings, require_root
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
    "or set dataset.corpus.download=true to have it done where a network exists."
)
NAME = re.compile(r"(?P<word>[^/]+)/(?P<speaker>[^/]+)_nohash_(?P<take>\d+)\.wav")
PUBLISHED = 105_829  # recordings of words in the whole archive
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# Of each noise recording, for silence; the first fifth is never cut, so that it can be mixed into the training of every model.
PARTS = {"train": (0.2, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
STRETCH, WINDOW = (
    2.0,
    1.0,
)  # seconds: windows of two stretches never overlap, and a stretch goes to one subset and one request
MILLISECOND = 0.001
EXAMPLES = 3


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
    """The corpus in its own layout: <word>/<speaker>_nohash_<take>.wav, _background_noise_/, validation_list.txt, testing_list.txt.

    For label "word": classes=35 are all words; classes=12 are ten words, `unknown` (a seeded choice of the other words; the column spoken keeps the
    word) and `silence` (see `silence_windows`; ids `file@start`), both as shares of the ten words' utterances, subset by subset, as published. The
    official lists say what validates and tests; their speakers are disjoint. For label "speaker" therefore a seeded share `test` of each speaker's
    utterances tests; speakers with less than `fewest` utterances are left out. complete=False goes on without recordings that the lists name and
    that are not there.
    """
    folder = _folder(root, download)
    if classes not in {12, 35}:
        raise UserError(
            f"dataset.corpus.classes is {classes}: choose 12 (ten words, unknown, silence) or 35 (all words)."
        )
    for name, share in {"unknown": unknown, "silence": silence}.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise UserError(f"dataset.corpus.{name} is {share}: give a share of the ten words' utterances, 0 to 1.")
    table = words(folder, complete)
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
    places = [top, top / ARCHIVE, top / "SpeechCommands" / ARCHIVE]
    if download and not any((place / LISTS["test"]).exists() for place in places):
        _download(top)
    for place in places:
        if all((place / name).exists() for name in LISTS.values()):
            return place
    raise UserError(f"{top} is not Speech Commands v0.02: it has no {LISTS['validation']} and {LISTS['test']}. {HOW}")


def _download(top: Path) -> None:
    from speechforget._torchaudio import torchaudio

    refuse_in_dry_run(top)
    logger.info("speech_commands: fetching 2.4 GB to %s", top)
    try:
        torchaudio.datasets.SPEECHCOMMANDS(str(top), url=ARCHIVE, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Speech Commands could not be fetched ({error}): check the network, or fetch it elsewhere. {HOW}"
        ) from error


def words(folder: Path, complete: bool = True) -> pd.DataFrame:
    """One row per recording of a word; subset as the two lists say, train where neither does; spoken is the word. Ids are paths.

    Raises UserError where a recording that a list names is not there, unless `complete` is false.
    """
    matches = [match for path in recordings(folder) if not path.startswith(NOISE) and (match := NAME.fullmatch(path))]
    rows = [
        {"id": match[0], "path": match[0], "word": match["word"], "speaker": match["speaker"], "take": match["take"]}
        for match in matches
    ]
    table = pd.DataFrame(rows, columns=["id", "path", "word", "speaker", "take"], dtype=str)
    subset_of = {
        path: subset for subset, name in LISTS.items() for path in (folder / name).read_text(encoding="utf-8").split()
    }
    _check_listed(folder, sorted(set(subset_of) - set(table["path"])), len(subset_of), complete)
    table.insert(2, "subset", table["path"].map(subset_of).fillna("train"))
    return table.assign(spoken=table["word"])


def _check_listed(folder: Path, missing: list[str], listed: int, complete: bool) -> None:
    if not missing:
        return
    examples = ", ".join(missing[:EXAMPLES]) + (", ..." if len(missing) > EXAMPLES else "")
    lists = " and ".join(LISTS.values())
    found = f"{len(missing)} of the {listed} recordings that {lists} name are not in {folder} ({examples})"
    if complete:
        raise UserError(f"{found}: unpack the archive again, or go on without them with dataset.corpus.complete=false.")
    logger.warning("%s: going on without them", found)


def compare_count(name: str, count: int, published: int, what: str) -> None:
    """Says in the log how many recordings are here where they are not as many as were published: a part of a corpus is no mistake."""
    if count != published:
        logger.info(
            "%s: %d %s here, %d in the whole corpus: accuracies cannot be compared with published ones",
            name,
            count,
            what,
            published,
        )


def noises(folder: Path) -> tuple[Path, ...]:
    """The recordings of background noise."""
    return tuple(folder / NOISE / path for path in recordings(folder / NOISE)) if (folder / NOISE).is_dir() else ()


def _by_speaker(table: pd.DataFrame, test: float, fewest: int, seed: int) -> pd.DataFrame:
    if not 0 < test < 1:
        raise UserError(
            f"dataset.corpus.test is {test}: give the share of each speaker's utterances to test on, between 0 and 1."
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
    """`count` seeded one-second windows in the subset's part of the noise, cut out of stretches of two seconds.

    Windows of two stretches never overlap. Those of one stretch do where more are asked for than there are seconds (in the whole of v0.02, 3,077
    windows come out of about 118 stretches, 27 of each): they are one unit of `split`, which goes to training, to the holdout or into a request as
    a whole. So counts are the published ones, and no second of noise is heard on two sides. Fewer are cut, and the log says so, where a window
    would begin less than a millisecond after another.
    """
    if count and not noise:
        raise UserError(
            f"{folder} has no sound files in {NOISE} to cut silence from: restore them, or set dataset.corpus.silence=0."
        )
    stretches = [(path, *stretch) for path in noise for stretch in _stretches(_seconds(path), *PARTS[subset])]
    each = -(-count // max(len(stretches), 1))  # windows of a stretch
    places = [
        (path.relative_to(folder).as_posix(), start)
        for path, first, last in stretches
        for start in _starts(first, last, each)
    ]
    rows = pd.DataFrame(
        [{"id": f"{path}@{start:.3f}", "path": path, "start": start} for path, start in places],
        columns=["id", "path", "start"],
    )
    if len(rows) < count:
        logger.warning(
            "%s: the noise holds %d windows of silence for %s, %d were asked for", folder, len(rows), subset, count
        )
    numbers = identities(rows["id"])
    rows = rows[np.isin(numbers, order(numbers, seed, "silence")[:count])]
    return rows.assign(seconds=WINDOW, subset=subset, word="silence", speaker="", take="", spoken="")


def _stretches(seconds: float, first: float, last: float) -> list[tuple[int, int]]:
    """From where to where, in milliseconds, the stretches of a part of a recording are; a part too short for one is a stretch itself."""
    begin, end, step = (
        round(np.ceil(seconds * first / MILLISECOND)),
        int(seconds * last / MILLISECOND),
        round(STRETCH / MILLISECOND),
    )
    if end - begin < step:
        return [(begin, end)] if end - begin >= WINDOW / MILLISECOND else []
    return [(start, start + step) for start in range(begin, end - step + 1, step)]


def _starts(first: int, last: int, count: int) -> list[float]:
    """In seconds, where at least `count` windows of a stretch begin: evenly, and side by side where there is room for that."""
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
