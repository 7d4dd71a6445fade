"""SUPERB keyword spotting (Yang et al., Interspeech 2021): Speech Commands v0.01, twelve labels, own test archive."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from speechforget.data.corpora.base import Corpus, recordings, require_root, stem
from speechforget.data.corpora.speech_commands import (
    LISTS,
    NOISE,
    TEN_WORDS,
    compare_count,
    noises,
    silence_windows,
    words,
)
from speechforget.errors import UserError

NAME = "superb_keyword_spotting"
TRAINED, TESTED = "speech_commands_v0.01", "speech_commands_test_set_v0.01"
HOW = (
    f"Download {TRAINED}.tar.gz (1.5 GB) and {TESTED}.tar.gz (0.1 GB, both CC BY 4.0) from "
    f"http://download.tensorflow.org/data/ and unpack each into a folder of its name, FOLDER/{TRAINED} and "
    f"FOLDER/{TESTED} (mkdir, then tar -xzf ARCHIVE -C FOLDER: they contain no folder of their own)."
)
PUBLISHED = {"in the training archive": 64_727, "in the test archive": 3_081}  # the first includes 6 of noise
UNKNOWN, SILENCE = "_unknown_", "_silence_"  # folders of the test archive
NEWER = frozenset({"backward", "follow", "forward", "learn", "visual"})  # words that v0.02 has and v0.01 lacks
TAKE = re.compile(r"(?:(?P<spoken>[^_/]+)_)?(?P<speaker>[^_/]+)_nohash_(?P<take>\d+)")


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    test_root: str | Path | None = None,
    silence: float | str = 0.1,
    complete: bool = True,
    seed: int = 0,
) -> Corpus:
    """Index both archives. Training: recordings in no list; validation: validation_list.txt; test: the test archive.

    Recordings in testing_list.txt are not used, as in SUPERB, because the test archive repeats some of them. All words
    other than the ten are `unknown`; the column spoken keeps the word, if it is known. Ids begin with the archives'
    names, whatever the folders are called.

    root: the folder of both unpacked archives, or the training archive if `test_root` is the test archive.
    silence: "files" uses the recordings of background noise whole, only in training, as SUPERB counts. A share of the
        ten words' utterances cuts that many one-second windows from them, drawn by seed, for training and validation
        (see `speech_commands.silence_windows`).
    """
    if label == "speaker":
        raise UserError(
            "SUPERB's keyword spotting keeps speakers apart, so test speakers are not in training: use "
            "dataset=speech_commands."
        )
    if silence != "files" and (isinstance(silence, (bool, str)) or not 0 <= silence <= 1):
        raise UserError(
            f"dataset.corpus.silence is {silence}: give a share of the ten words' utterances, from 0 to 1, or files."
        )
    trained, tested = _folders(root, test_root)
    table = words(NAME, trained, complete)
    if newer := sorted(NEWER & set(table["word"])):
        raise UserError(
            f"{trained} is not Speech Commands v0.01 but a later version (it has '{newer[0]}'): use "
            f"dataset=speech_commands. {HOW}"
        )
    noise = noises(trained)
    tests = _tests(tested)
    for (what, published), count in zip(PUBLISHED.items(), (len(table) + len(noise), len(tests)), strict=True):
        compare_count(NAME, count, published, f"recordings {what}")
    table = table[table["subset"] != "test"]
    parts = [
        table.assign(word=table["word"].where(table["word"].isin(TEN_WORDS), "unknown")),
        *_silence(table, trained, noise, silence, seed),
    ]
    relative = Path(os.path.relpath(tested, trained.parent)).as_posix()
    parts = [_prefixed(part, TRAINED, trained.name) for part in parts] + [_prefixed(tests, TESTED, relative)]
    table = pd.concat(parts).fillna({"start": 0.0}).sort_values("id", ignore_index=True)
    return Corpus(NAME, trained.parent, table, noise, steady=table[~table["id"].str.contains("@", regex=False)])


def _folders(root: str | Path | None, test_root: str | Path | None) -> tuple[Path, Path]:
    """Find the two archives. Paths are resolved, so that links and spelling make no difference."""
    top = require_root(root, NAME, HOW)
    candidates = (top / TRAINED, top)
    trained = next((path for path in candidates if all((path / name).is_file() for name in LISTS.values())), None)
    if trained is None:
        raise UserError(f"{top} does not contain {TRAINED}: it has no {LISTS['validation']} and {LISTS['test']}. {HOW}")
    others = [Path(test_root).expanduser()] if test_root is not None else [top / TESTED, trained.parent / TESTED]
    tested = next((path for path in others if (path / UNKNOWN).is_dir() or (path / SILENCE).is_dir()), None)
    if tested is None:
        named = others[0] if test_root is None else f"dataset.corpus.test_root={test_root}"
        raise UserError(
            f"{named} is not {TESTED}: it has no folder {UNKNOWN} or {SILENCE}; set dataset.corpus.test_root to the "
            f"test archive. {HOW}"
        )
    return trained.resolve(), tested.resolve()


def _tests(folder: Path) -> pd.DataFrame:
    names = {**{word: word for word in TEN_WORDS}, UNKNOWN: "unknown", SILENCE: "silence"}
    rows = []
    for path in recordings(folder):
        within, _, file = path.partition("/")
        if within in names:
            found = TAKE.fullmatch(stem(file).removesuffix(".wav"))  # some names end in .wav.wav
            known = found.groupdict("") if found else {"spoken": "", "speaker": "", "take": ""}
            spoken = within if within in TEN_WORDS else known["spoken"]
            rows.append({"id": path, "path": path, "subset": "test", "word": names[within], **known, "spoken": spoken})
    if missing := sorted(set(names.values()) - {row["word"] for row in rows}):
        raise UserError(f"{folder} has no test recordings of {', '.join(missing)}: unpack {TESTED} again. {HOW}")
    return pd.DataFrame(rows, dtype=str)


def _silence(
    table: pd.DataFrame, folder: Path, noise: tuple[Path, ...], silence: float | str, seed: int
) -> list[pd.DataFrame]:
    if isinstance(silence, str):
        if not noise:
            raise UserError(f"{folder} has no sound files in {NOISE} to use as silence: restore them.")
        paths = [path.relative_to(folder).as_posix() for path in noise]
        whole = pd.DataFrame({"id": paths, "path": paths, "start": 0.0, "seconds": np.nan})
        return [whole.assign(subset="train", word="silence", speaker="", take="", spoken="")]
    ten = table["word"].isin(TEN_WORDS)
    counts = {subset: int((ten & (table["subset"] == subset)).sum()) for subset in ("train", "validation")}
    return [silence_windows(folder, noise, subset, round(silence * count), seed) for subset, count in counts.items()]


def _prefixed(part: pd.DataFrame, archive: str, folder: str) -> pd.DataFrame:
    """Prefix ids with the archive's name and paths with its folder."""
    return part.assign(id=archive + "/" + part["id"], path=folder + "/" + part["path"])
