"""What corpora of espeak-ng share: their voices, the draws of their clips, and the recordings, made once."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd

from speechforget.data.corpora.base import identities
from speechforget.errors import UserError, nearest
from speechforget.progress import bar
from speechforget.seeding import order, seed_from, uniform
from speechforget.store import code_hash, once, read_done

SAMPLE_RATE = 16000  # Hz
BASES = ("en-us", "en", "en-029", "en-gb-scotland", "en-gb-x-rp")
# Variants that sound different in each run, even in a new process.
NOT_REPRODUCIBLE = frozenset({"Alicia", "Demonic", "f2", "f3", "f5", "sandro", "victor", "whisper", "whisperf"})


def drawn(names: Sequence[str], *salt: int | str) -> list[str]:
    """Return the names in a random order that depends only on the names themselves and the salt."""
    numbers = identities(pd.Series(list(names)))
    name_of = dict(zip(numbers.tolist(), names, strict=True))
    return [name_of[number] for number in order(numbers, *salt).tolist()]


def choose_voices(voices: int | Sequence[str], seed: int) -> list[str]:
    """Return the names of the voices, sorted: as many as asked for, drawn by seed, or the ones that are named."""
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
            for number, variant in enumerate(drawn(variants, seed, "voices")[:voices])
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
    check_list("voices", names)
    return names


def check_list(option: str, values: Sequence[str]) -> None:
    """Raise UserError for a list with fewer than two values, or with one twice."""
    if len(set(values)) < max(2, len(values)):
        raise UserError(f"dataset.corpus.{option} must list at least two, each once, but is: {', '.join(values)}.")


def testing_voices(chosen: Sequence[str], share: float, seed: int) -> list[str]:
    """Draw the share of the voices that test; only the seed decides, so that nothing else that changes moves them."""
    return drawn(chosen, seed, "test voices")[: max(1, round(share * len(chosen)))]


def draw_ranges(
    clips: list[dict[str, Any]], ranges: Mapping[str, tuple[float, float]], seed: int
) -> list[dict[str, Any]]:
    """Add to each clip a number from each range (integers from ranges of integers), and `draw`, the seed of its noise.

    Each draw depends on the seed and the clip's own id.
    """
    numbers = identities(pd.Series([clip["id"] for clip in clips]))
    for (name, (low, high)), values in zip(
        ranges.items(), uniform(numbers, len(ranges), seed, "espeak").T, strict=True
    ):
        for clip, value in zip(clips, values.tolist(), strict=True):
            clip[name] = low + value * (high - low) if isinstance(low, float) else int(low + value * (high + 1 - low))
    for clip, number in zip(clips, numbers.tolist(), strict=True):
        clip["draw"] = number ^ seed
    return clips


def record(
    program: str, version: int, clips: list[dict[str, Any]], top: Path, lock: str, options: str
) -> tuple[Path, pd.DataFrame]:
    """Return the folder below `top` that holds the clips, made once, and the corpus's steady rows.

    program: the module that speaks them; its code and `version` are part of the folder's name, as the clips are.
    options: the options to change where espeak cannot speak a clip.
    """
    recipe = [version, code_hash(program), importlib.metadata.version("espeakng-loader"), SAMPLE_RATE, clips]
    folder = top / f"{seed_from(json.dumps(recipe)):016x}"
    if read_done(folder) is None:
        _make(program, folder, clips, lock, options)
    # Voices and everything they say are drawn.
    return folder, pd.DataFrame({"id": list(map(str, recipe[:-1])), "path": ""})


def _make(program: str, folder: Path, clips: list[dict[str, Any]], lock: str, options: str) -> None:
    if not hasattr(os, "fork"):
        raise UserError("espeak needs processes that fork (Linux, macOS): choose another dataset.")
    job = folder / "job.json"

    def speak() -> None:
        job.write_text(
            json.dumps({"folder": str(folder.resolve()), "sample_rate": SAMPLE_RATE, "clips": clips}), encoding="utf-8"
        )
        _run(program, job, len(clips), options)

    try:
        once(folder, lock, speak)
    except OSError as error:
        path, reason = error.filename or folder, error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}): choose another folder (cache, dataset.root).") from error


def _run(program: str, job: Path, count: int, options: str) -> None:
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
            command = [sys.executable, "-m", program, str(job), str(shard), str(shards)]
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
        raise UserError(f"espeak has {problems[0]}: change {options}.")
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
