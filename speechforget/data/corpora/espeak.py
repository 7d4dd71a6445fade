"""A synthetic corpus: words spoken by the voices of espeak-ng (espeakng-loader wheel), bit-equal on every machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd

from speechforget.data.corpora.base import Corpus, identities
from speechforget.errors import UserError, nearest
from speechforget.progress import bar
from speechforget.seeding import order, seed_from, uniform
from speechforget.store import code_hash, once, read_done

VERSION = 1  # part of the folder's name: raise it when the same numbers give other recordings
SAMPLE_RATE = 16000  # Hz
BASES = ("en-us", "en", "en-029", "en-gb-scotland", "en-gb-x-rp")
# Variants that sound different in each run, even in a new process.
NOT_REPRODUCIBLE = frozenset({"Alicia", "Demonic", "f2", "f3", "f5", "sandro", "victor", "whisper", "whisperf"})
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
    chosen, texts = _voices(voices, seed), [str(word) for word in words]
    _check(chosen, texts, renderings, test)
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
        # Only the seed decides, so that the choice stays the same when words or renderings change.
        tested = table["speaker"].isin(_drawn(chosen, seed, "test voices")[: max(1, round(test * len(chosen)))])
    table.insert(1, "path", table["id"])
    table.insert(2, "subset", tested.map({True: "test", False: "train"}))
    table["accent"] = table["speaker"].str.partition("+")[0]
    table["sex"] = table["speaker"].map({voice: sex_of(voice) for voice in chosen})
    clips = _clips(table, seed)
    recipe = [
        VERSION,
        code_hash("speechforget.data.corpora.espeak_synthesis"),
        importlib.metadata.version("espeakng-loader"),
        SAMPLE_RATE,
        clips,
    ]
    folder = (Path(root).expanduser() if root else cache / "espeak") / f"{seed_from(json.dumps(recipe)):016x}"
    if read_done(folder) is None:
        _make(folder, clips, lock)
    # Voices and everything they say are drawn.
    steady = pd.DataFrame({"id": list(map(str, recipe[:-1])), "path": ""})
    return Corpus("espeak", folder, table, steady=steady)


def _drawn(names: Sequence[str], *salt: int | str) -> list[str]:
    numbers = identities(pd.Series(list(names)))
    name_of = dict(zip(numbers.tolist(), names, strict=True))
    return [name_of[number] for number in order(numbers, *salt).tolist()]


def _voices(voices: int | Sequence[str], seed: int) -> list[str]:
    import espeakng_loader

    variants = sorted(
        {path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()} - NOT_REPRODUCIBLE
    )
    if isinstance(voices, int):
        if not 2 <= voices <= len(variants):
            raise UserError(
                f"dataset.corpus.voices is {voices}: choose 2 to {len(variants)}, the voices that sound the same in "
                "each run."
            )
        return sorted(
            f"{BASES[number % len(BASES)]}+{variant}"
            for number, variant in enumerate(_drawn(variants, seed, "voices")[:voices])
        )
    names = [voices] if isinstance(voices, str) else sorted(map(str, voices))
    for name in names:
        base, _, variant = name.partition("+")
        if variant in NOT_REPRODUCIBLE:
            raise UserError(
                f"The espeak variant '{variant}' sounds different in each run: remove {name} from "
                "dataset.corpus.voices."
            )
        if not base or (variant and variant not in variants):
            raise UserError(
                f"dataset.corpus.voices contains '{name}': write ACCENT+VARIANT; of variants "
                f"{nearest(variant, variants)}."
            )
    return names


def sex_of(voice: str) -> str:
    """Return the gender that espeak-ng's file of the voice's variant states, lower case; "" if it states none."""
    import espeakng_loader

    file = Path(espeakng_loader.get_data_path()) / "voices" / "!v" / voice.partition("+")[2]
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    stated = re.search(r"^\s*gender\s+(female|male)\b", text, re.IGNORECASE | re.MULTILINE)
    return stated[1].lower() if stated else ""


def _check(voices: list[str], words: list[str], renderings: int, test: float) -> None:
    for option, values in {"words": words, "voices": voices}.items():
        if len(set(values)) < max(2, len(values)):
            raise UserError(f"dataset.corpus.{option} must list at least two, each once, but is: {', '.join(values)}.")
    if strange := [word for word in words if "/" in word or word.startswith(".") or not word.strip()]:
        raise UserError(
            f"dataset.corpus.words contains {strange[0]!r}, which cannot be the name of a folder: use letters."
        )
    if renderings < 2 or not 0 < test < 1:
        raise UserError(
            f"dataset.corpus.renderings={renderings} must be 2 or more and test={test} a share between 0 and 1."
        )


def _clips(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Draw each clip: integers for espeak, `snr` in dB, `position`, and `draw`, the seed of its noise."""
    numbers = identities(table["id"])
    clips: list[dict[str, Any]] = [{"id": row.id, "word": row.word, "voice": row.speaker} for row in table.itertuples()]
    for (name, (low, high)), drawn in zip(RANGES.items(), uniform(numbers, len(RANGES), seed, "espeak").T, strict=True):
        for clip, value in zip(clips, drawn.tolist(), strict=True):
            clip[name] = low + value * (high - low) if isinstance(low, float) else int(low + value * (high + 1 - low))
    for clip, number in zip(clips, numbers.tolist(), strict=True):
        clip["draw"] = number ^ seed
    return clips


def _make(folder: Path, clips: list[dict[str, Any]], lock: str) -> None:
    if not hasattr(os, "fork"):
        raise UserError("espeak needs processes that fork (Linux, macOS): choose another dataset.")
    job = folder / "job.json"

    def speak() -> None:
        job.write_text(
            json.dumps({"folder": str(folder.resolve()), "sample_rate": SAMPLE_RATE, "clips": clips}), encoding="utf-8"
        )
        _run(job, len(clips))

    try:
        once(folder, lock, speak)
    except OSError as error:
        path, reason = error.filename or folder, error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}): choose another folder (cache, dataset.root).") from error


def _run(job: Path, count: int) -> None:
    """Run the job in a few processes. Raises UserError if they cannot speak a clip, OSError if they cannot write it."""
    shards = min(8, os.cpu_count() or 1)
    home = str(Path(__file__).parents[3])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
    }
    problems: list[str] = []
    refused: list[str] = []
    with ExitStack() as stack:
        progress = stack.enter_context(bar(total=count, description="speaking with espeak", unit="clip"))
        workers = []
        for shard in range(shards):
            command = [
                sys.executable,
                "-m",
                "speechforget.data.corpora.espeak_synthesis",
                str(job),
                str(shard),
                str(shards),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment)
            stack.callback(process.kill)
            workers.append(process)
        readers = [Thread(target=_listen, args=(process, progress, problems, refused)) for process in workers]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        codes = [process.wait() for process in workers]
    if refused:
        number, _, name = refused[0].partition(" ")
        raise OSError(int(number), os.strerror(int(number)), str(job.parent / name))
    if problems:
        raise UserError(f"espeak has {problems[0]}: change dataset.corpus.words or dataset.corpus.voices.")
    if any(codes):
        raise RuntimeError(f"an espeak process ended with exit code {max(codes, key=abs)}; its message is above")


def _listen(process: subprocess.Popen[str], progress: Any, problems: list[str], refused: list[str]) -> None:
    for line in process.stdout or ():
        if line.startswith("error: "):
            problems.append(line.removeprefix("error: ").strip())
        elif line.startswith("refused: "):
            refused.append(line.removeprefix("refused: ").strip())
        else:
            progress.update(1)
