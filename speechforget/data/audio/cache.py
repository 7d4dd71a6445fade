"""Recordings, decoded once to one memory-mapped int16 array per corpus, with what is wrong with them and what they are.

The cache is found by where the files lie, how long they are and when they were changed. What they *are* is the fingerprint, made of their bytes:
the same corpus elsewhere has another cache and the same fingerprint.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.audio.decode import VERSION, Clip, Sound, decode_sounds
from speechforget.data.audio.files import read_sound, resample
from speechforget.data.corpora.base import Corpus
from speechforget.errors import UserError
from speechforget.store import code_hash, once, verified

__all__ = ["Audio", "decode", "read_sound", "resample"]

logger = logging.getLogger(__name__)

BAD_FILES_SHOWN = 50


@dataclass(frozen=True)
class Audio:
    """A decoded corpus.

    folder: where it is cached. root: what the table's paths are relative to.
    table: the corpus table without bad recordings, plus offset and samples (int64, where an utterance lies in `samples()`), seconds (its length)
        and sha1 (of its samples, little-endian).
    fingerprint: sha256 of the whole table and of the bytes of every file used, 64 hexadecimal digits. Of paths only which rows share a file.
    noise: background noise in the same array: path (relative to the root), offset, samples.
    steady: the same as fingerprint of what no seed draws (`Corpus.steady`).
    unusable: ids of bad recordings.
    """

    folder: Path
    root: Path
    table: pd.DataFrame
    fingerprint: str
    noise: pd.DataFrame
    steady: str = ""
    unusable: tuple[str, ...] = ()

    def samples(self) -> NDArray[np.int16]:
        """All recordings behind one another, int16, memory-mapped and read-only; not where they are decoded on demand."""
        return np.load(_checked_samples(self.folder), mmap_mode="r")


def decode(
    corpus: Corpus, cache: Path, sample_rate: int, on_bad_audio: str = "error", lock: str = "flock", kept: bool = True
) -> Audio:
    """The corpus at `sample_rate` Hz, decoded at the first call and read from `cache` afterwards; safe for several processes at once.

    kept: whether the samples are kept, or only what is known of them: then the first call reads every file all the same, to hash and check it.

    on_bad_audio: what happens when recordings cannot be used: "error" raises a UserError that names them all, "skip" logs the same and goes on.
    lock: flock or lease, as for every folder that several processes want.
    """
    if on_bad_audio not in {"error", "skip"}:
        raise UserError(f"dataset.on_bad_audio is '{on_bad_audio}': choose error or skip.")
    sounds, order, noise = _sounds(corpus)
    folder = cache / ("audio" if kept else "audio-on-demand") / _key(corpus, sounds, sample_rate)

    def build() -> None:
        _build(folder, sounds, sample_rate, corpus.name, kept)
        if _key(corpus, sounds, sample_rate) != folder.name:
            raise UserError(f"The corpus changed while it was decoded, {corpus.root}: run the same command again.")

    once(folder, lock, build)
    clips = pd.read_csv(
        verified(folder, "clips.csv"), dtype={"sha1": str, "file": str, "problem": str}, keep_default_na=False
    )
    speech, background = clips.iloc[order].reset_index(drop=True), clips.iloc[len(order) :].reset_index(drop=True)
    names = pd.Series([*corpus.table["id"], *noise])
    _report(corpus.name, names, pd.concat([speech, background], ignore_index=True)["problem"], on_bad_audio, folder)
    good, good_noise = (speech["problem"] == "").to_numpy(), (background["problem"] == "").to_numpy()
    if not good.any():
        raise UserError(f"{corpus.name}: not one recording in {corpus.root} can be used.")
    table, speech = corpus.table[good].reset_index(drop=True), speech[good].reset_index(drop=True)
    recordings = pd.DataFrame({"path": noise, "offset": background["offset"], "samples": background["samples"]})[
        good_noise
    ].reset_index(drop=True)
    fingerprint = _fingerprint(table, speech["file"], recordings["path"], background["file"][good_noise], sample_rate)
    steady = table if corpus.steady is None else corpus.steady
    files = speech["file"].set_axis(table["id"]).reindex(steady["id"], fill_value="")
    steady_fingerprint = _fingerprint(steady, files, recordings["path"], background["file"][good_noise], sample_rate)
    table = table.assign(
        offset=speech["offset"], samples=speech["samples"], seconds=speech["samples"] / sample_rate, sha1=speech["sha1"]
    )
    copies = int(table["sha1"].duplicated().sum())
    logger.info("%s: %d recordings, %d of them exact copies of another", corpus.name, len(table), copies)
    return Audio(
        folder, corpus.root, table, fingerprint, recordings, steady_fingerprint, tuple(corpus.table["id"][~good])
    )


@functools.cache
def _checked_samples(folder: Path) -> Path:
    """The recordings' file, hashed once in a process: what is made of damaged recordings would be wrong without a sign of it."""
    return verified(folder, "samples.npy")


def _sounds(corpus: Corpus) -> tuple[list[Sound], NDArray[np.int64], list[str]]:
    """What to decode (a file once, however many utterances it holds), the place of each table row in that, and the names of the noise recordings."""
    table = corpus.table
    count = len(table)
    starts = table["start"].to_numpy(float) if "start" in table else np.zeros(count)
    lengths = table["seconds"].to_numpy(float) if "seconds" in table else np.full(count, np.nan)
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(table["path"]):
        rows.setdefault(path, []).append(row)
    sounds = [
        Sound(corpus.root / path, tuple((float(starts[row]), float(lengths[row])) for row in those))
        for path, those in rows.items()
    ]
    decoded = np.concatenate([np.asarray(those, dtype=np.int64) for those in rows.values()])
    order = np.empty(count, dtype=np.int64)
    order[decoded] = np.arange(count)
    noise = [
        path.relative_to(corpus.root).as_posix() if path.is_relative_to(corpus.root) else str(path)
        for path in corpus.noise
    ]
    return sounds + [Sound(path) for path in corpus.noise], order, noise


def _key(corpus: Corpus, sounds: Iterable[Sound], sample_rate: int) -> str:
    code = code_hash("speechforget.data.audio.decode")  # what an edited one decodes is not what lies there
    digest = hashlib.sha256(f"{VERSION}\n{code}\n{corpus.root.resolve()}\n{sample_rate}\n".encode())
    for sound in sounds:
        try:
            status = os.stat(sound.path)  # noqa: PTH116  (half the time of Path.stat, for a hundred thousand files)
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"
        except OSError as error:
            state = f"error {error.errno}"
        digest.update(f"{sound.path}\n{state}\n{sound.spans}\n".encode())
    return digest.hexdigest()[:24]


def _build(folder: Path, sounds: list[Sound], sample_rate: int, name: str, kept: bool) -> None:
    clips = decode_sounds(
        sounds, sample_rate, folder / "samples.npy" if kept else None, f"{'decoding' if kept else 'checking'} {name}"
    )
    rows = [asdict(clip) for each in clips for clip in each]
    pd.DataFrame(rows, columns=list(Clip.__dataclass_fields__)).to_csv(folder / "clips.csv", index=False)


def _report(name: str, ids: pd.Series, problems: pd.Series, on_bad_audio: str, folder: Path) -> None:
    bad = problems != ""
    if not bad.any():
        return
    lines = [f"  {identity}: {problem}" for identity, problem in zip(ids[bad], problems[bad], strict=True)]
    shown = lines[:BAD_FILES_SHOWN]
    if len(lines) > len(shown):
        (folder / "bad.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        shown.append(f"  ... all of them are listed in {folder / 'bad.txt'}")
    count = f"{len(lines)} of {len(ids)} recordings of {name}"
    if on_bad_audio == "error":
        raise UserError(
            "\n".join(
                [
                    f"{count} cannot be used: mend or remove them, or leave them out with dataset.on_bad_audio=skip.",
                    *shown,
                ]
            )
        )
    logger.warning("%s cannot be used and are left out:\n%s", count, "\n".join(shown))


def _fingerprint(
    table: pd.DataFrame, files: pd.Series, noise: pd.Series, noise_files: pd.Series, sample_rate: int
) -> str:
    digest = hashlib.sha256(f"{VERSION} {sample_rate}".encode())
    shared = pd.Series(
        pd.factorize(np.concatenate([table["path"], noise]))[0], name="path"
    )  # where the files lie is no part of what they are
    for column in [
        *(table[column] for column in sorted(table.columns) if column != "path"),
        shared,
        files,
        noise_files,
    ]:
        digest.update(f"\x1d{column.name}\x1e".encode())
        digest.update("\x1f".join(map(str, column)).encode())
    return digest.hexdigest()
