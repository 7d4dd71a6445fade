"""A synthetic corpus: words spoken by the voices of espeak-ng (espeakng-loader wheel), bit-equal on every machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from speechforget.data.corpora.base import Corpus
from speechforget.data.corpora.espeak_clips import check_list, choose_voices, draw_ranges, record, testing_voices
from speechforget.errors import UserError

VERSION = 1  # part of the folder's name: raise it when the same numbers give other recordings
PROGRAM = "speechforget.data.corpora.espeak_synthesis"
# How renderings differ: espeak's words per minute, loudness, pitch and pitch range (0-99); signal-to-noise ratio in dB;
# position in the second.
RANGES = {
    "rate": (120, 240),
    "volume": (50, 100),
    "pitch": (20, 80),
    "range": (20, 80),
    "snr": (5.0, 25.0),
    "position": (0.0, 1.0),
}


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    words: Sequence[str] = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
    voices: int | Sequence[str] = 30,
    renderings: int = 8,
    test: float = 0.2,
    seed: int = 0,
    lock: str = "flock",
) -> Corpus:
    """Index every word by every voice, `renderings` times, each with another rate, pitch, loudness, position and noise.

    The recordings are made once, in a folder below `root`, or below `cache` if there is no root.
    Columns: word, speaker, rendering, accent (en-us, ...) and sex (female, male; "" where espeak-ng does not say).

    voices: a number (variants drawn by seed, each with one of the English accents), or names such as en-us+klatt3.
    test: for label "word" the share of the voices that test, which are not in training; for label "speaker" the share
        of the renderings of each word.
    """
    if any(isinstance(word, bool) for word in words):
        raise UserError(
            "dataset.corpus.words contains true or false: put words such as yes, no, on and off into quotation marks."
        )
    chosen, texts = choose_voices(voices, seed), [str(word) for word in words]
    _check(texts, renderings, test)
    rows = [
        {"id": f"{word}/{voice}_{number}.wav", "word": word, "speaker": voice, "rendering": str(number)}
        for word in texts
        for voice in chosen
        for number in range(1, renderings + 1)
    ]
    table = pd.DataFrame(rows).sort_values("id", ignore_index=True)
    if label == "speaker":
        tested = table["rendering"].astype(int) > renderings - max(1, round(test * renderings))
    else:
        tested = table["speaker"].isin(testing_voices(chosen, test, seed))
    table.insert(1, "path", table["id"])
    table.insert(2, "subset", tested.map({True: "test", False: "train"}))
    table["accent"] = table["speaker"].str.partition("+")[0]
    table["sex"] = table["speaker"].map({voice: sex_of(voice) for voice in chosen})
    clips = [{"id": row.id, "word": row.word, "voice": row.speaker} for row in table.itertuples()]
    top = Path(root).expanduser() if root else cache / "espeak"
    options = "dataset.corpus.words or dataset.corpus.voices"
    folder, steady = record(PROGRAM, VERSION, draw_ranges(clips, RANGES, seed), top, lock, options)
    return Corpus("espeak", folder, table, steady=steady)


def sex_of(voice: str) -> str:
    """Return the gender that espeak-ng's file of the voice's variant states, lower case; "" if it states none."""
    import espeakng_loader

    file = Path(espeakng_loader.get_data_path()) / "voices" / "!v" / voice.partition("+")[2]
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    stated = re.search(r"^\s*gender\s+(female|male)\b", text, re.I | re.M)
    return stated[1].lower() if stated else ""


def _check(words: list[str], renderings: int, test: float) -> None:
    check_list("words", words)
    if strange := [word for word in words if "/" in word or word.startswith(".") or not word.strip()]:
        raise UserError(
            f"dataset.corpus.words contains {strange[0]!r}, which cannot be the name of a folder: use letters."
        )
    if renderings < 2 or not 0 < test < 1:
        raise UserError(
            f"dataset.corpus.renderings={renderings} must be 2 or more and test={test} a share between 0 and 1."
        )
