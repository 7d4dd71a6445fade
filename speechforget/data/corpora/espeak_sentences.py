"""A synthetic corpus: sentences with transcripts, spoken by the voices of espeak-ng beside sources of noise.

The voices are those of `espeak`, and so are the promises: bit-equal on every machine, and each draw from an id alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.data.corpora.base import Corpus, identities, require_label
from speechforget.data.corpora.espeak_clips import choose_voices, draw_ranges, drawn, record, testing_voices
from speechforget.data.corpora.noise_sources import SOURCES
from speechforget.data.corpora.sentence_grammar import sentences as sentences_of_forms
from speechforget.errors import UserError, nearest
from speechforget.seeding import uniform

VERSION = 1  # part of the folder's name: raise it when the same numbers give other recordings
PROGRAM = "speechforget.data.corpora.espeak_sentence_synthesis"
# How recordings differ: espeak's words per minute, loudness, pitch and pitch range (0-99); signal-to-noise ratio in dB;
# seconds without speech.
RANGES = {
    "rate": (120, 200),
    "volume": (50, 100),
    "pitch": (20, 80),
    "range": (20, 80),
    "snr": (5.0, 25.0),
    "before": (0.05, 0.25),
    "after": (0.05, 0.25),
}


def index(
    root: str | Path | None,
    label: str,
    cache: Path,
    sentences: int = 40,
    voices: int | Sequence[str] = 30,
    noises: Sequence[str] = SOURCES,
    test: float = 0.2,
    seed: int = 0,
    lock: str = "flock",
) -> Corpus:
    """Index `sentences` sentences by every voice, each with another rate, pitch, loudness, noise and silence around it.

    The recordings are made once, in a folder below `root`, or below `cache` if there is no root.
    Columns: text (the sentence), speaker (the voice), noise (the source of noise beside the voice).

    sentences: each voice draws its own, none twice, as many of each form of the grammar as of the others. Some are
        spoken by several voices. More of them, or more voices, change none of the others.
    voices: a number (variants drawn by seed, each with one of the English accents), or names such as en-us+klatt3.
    noises: the sources to draw from for each recording: white, hum, babble, clicks.
    test: the share of the voices that test, which are not in training; for label "speaker" the share of the sentences
        of each voice.
    """
    chosen, sources = choose_voices(voices, seed), _sources(noises)
    forms = sentences_of_forms()
    _check(sentences, len(forms) * min(map(len, forms)), test)
    rows = [
        {"id": f"{voice}/{number:03d}.wav", "text": text, "speaker": voice, "number": number}
        for voice in chosen
        for number, text in enumerate(_drawn_sentences(forms, voice, seed)[:sentences], start=1)
    ]
    table = pd.DataFrame(rows).sort_values("id", ignore_index=True)
    draws = uniform(identities(table["id"]), 1, seed, "espeak noises")[:, 0]
    table["noise"] = [sources[int(draw * len(sources))] for draw in draws.tolist()]
    if label == "speaker":
        tested = table["number"] > sentences - max(1, round(test * sentences))
    else:
        tested = table["speaker"].isin(testing_voices(chosen, test, seed))
    table = table.drop(columns="number")
    table.insert(1, "path", table["id"])
    table.insert(2, "subset", tested.map({True: "test", False: "train"}))
    require_label(table, label, "espeak_sentences")
    clips: list[dict[str, Any]] = [
        {"id": row.id, "text": row.text, "voice": row.speaker, "noise": row.noise} for row in table.itertuples()
    ]
    top = Path(root).expanduser() if root else cache / "espeak"
    folder, steady = record(PROGRAM, VERSION, draw_ranges(clips, RANGES, seed), top, lock, "dataset.corpus.voices")
    return Corpus("espeak_sentences", folder, table, steady=steady)


def _drawn_sentences(forms: list[list[str]], voice: str, seed: int) -> list[str]:
    """Order all sentences at random for one voice: one of each form, then another of each, and so on."""
    ordered = [drawn(form, seed, "sentences", voice) for form in forms]
    return [text for text in chain.from_iterable(zip_longest(*ordered)) if text is not None]


def _sources(noises: Sequence[str]) -> list[str]:
    names = [noises] if isinstance(noises, str) else list(map(str, noises))
    if strange := [name for name in names if name not in SOURCES]:
        raise UserError(f"dataset.corpus.noises contains '{strange[0]}': {nearest(strange[0], SOURCES)}.")
    if not names or len(set(names)) < len(names):
        raise UserError(f"dataset.corpus.noises must list at least one source, each once, but is: {', '.join(names)}.")
    return names


def _check(sentences: int, most: int, test: float) -> None:
    if not 2 <= sentences <= most or not 0 < test < 1:
        raise UserError(
            f"dataset.corpus.sentences={sentences} must be 2 to {most}, so that no voice says a sentence twice, and "
            f"test={test} a share between 0 and 1."
        )
