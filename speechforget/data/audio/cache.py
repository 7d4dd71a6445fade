"""Decode the recordings of a corpus once, into one memory-mapped int16 array.

Paths, sizes and modification times of the files name the cache. The bytes of the files make the fingerprint: a copy of
the corpus in another folder has another cache and the same fingerprint.
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
from speechforget.data.corpora.base import Corpus
from speechforget.errors import UserError
from speechforget.store import code_hash, once, verified
from speechforget.store.files import write_text

logger = logging.getLogger(__name__)

BAD_FILES, BAD_FILES_SHOWN = "bad.txt", 50


@dataclass(frozen=True)
class Audio:
    """A decoded corpus.

    folder: its cache. root: the folder that the table's paths are relative to.
    table: the corpus table without bad recordings, plus offset and samples (int64, the utterance's position in
        `samples()`), seconds (its length) and sha1 (of its samples, little-endian).
    fingerprint: sha256 of the table and of the bytes of every file used, 64 hexadecimal digits. Of the paths it holds
        only which rows share a file.
    noise: background noise in the same array: path (relative to the root), offset, samples.
    steady: the fingerprint of what no seed draws (`Corpus.steady`).
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
        """Map the concatenated recordings (samples,), int16, read-only. Not available if `decode` did not keep them."""
        return np.load(_checked_samples(self.folder), mmap_mode="r")


def decode(
    corpus: Corpus, cache: Path, sample_rate: int, on_bad_audio: str = "error", lock: str = "flock", kept: bool = True
) -> Audio:
    """Decode the corpus to `sample_rate` Hz at the first call, and read it from `cache` afterwards.

    Several processes may call this at the same time.

    on_bad_audio: for recordings that cannot be used, "error" raises a UserError that names them, and "skip" logs the
        same and leaves them out.
    lock: flock or lease, as for every folder that several processes share.
    kept: whether to keep the samples, or only their lengths and hashes. The first call reads every file in both cases,
        to hash and check it.
    """
    if on_bad_audio not in {"error", "skip"}:
        raise UserError(f"dataset.on_bad_audio is '{on_bad_audio}': choose error or skip.")
    sounds, order, noise = list_sounds(corpus)
    names = pd.Series([*corpus.table["id"], *noise])
    folder = cache / ("audio" if kept else "audio-on-demand") / cache_key(corpus, sounds, sample_rate)

    def build() -> None:
        title = f"{'decoding' if kept else 'checking'} {corpus.name}"
        found = decode_sounds(sounds, sample_rate, folder / "samples.npy" if kept else None, title)
        clips = pd.DataFrame([asdict(clip) for each in found for clip in each], columns=list(Clip.__dataclass_fields__))
        clips.to_csv(folder / "clips.csv", index=False)
        bad = _bad_lines(names, _in_table_order(clips, order)["problem"])
        if len(bad) > BAD_FILES_SHOWN:
            write_text(folder / BAD_FILES, "\n".join(bad) + "\n")
        if cache_key(corpus, sounds, sample_rate) != folder.name:
            raise UserError(f"The corpus in {corpus.root} changed while it was decoded: run the same command again.")

    once(folder, lock, build)
    text = {"sha1": str, "file": str, "problem": str}
    clips = _in_table_order(pd.read_csv(verified(folder, "clips.csv"), dtype=text, keep_default_na=False), order)
    _report(corpus.name, len(names), _bad_lines(names, clips["problem"]), on_bad_audio, folder)
    usable = (clips["problem"] == "").to_numpy()
    good, good_noise = usable[: len(order)], usable[len(order) :]
    if not good.any():
        raise UserError(f"{corpus.name}: none of the recordings in {corpus.root} can be used.")
    table = corpus.table[good].reset_index(drop=True)
    speech = clips[: len(order)][good].reset_index(drop=True)
    background = clips[len(order) :][good_noise].reset_index(drop=True)
    paths = pd.Series(noise, dtype=str)[good_noise].reset_index(drop=True)
    recordings = pd.DataFrame({"path": paths, "offset": background["offset"], "samples": background["samples"]})
    fingerprint = _fingerprint(table, speech["file"], recordings["path"], background["file"], sample_rate)
    steady = table if corpus.steady is None else corpus.steady
    files = speech["file"].set_axis(table["id"]).reindex(steady["id"], fill_value="")
    steady_fingerprint = _fingerprint(steady, files, recordings["path"], background["file"], sample_rate)
    table = table.assign(
        offset=speech["offset"], samples=speech["samples"], seconds=speech["samples"] / sample_rate, sha1=speech["sha1"]
    )
    copies = int(table["sha1"].duplicated().sum())
    logger.info("%s: %d recordings, %d of them exact copies of another", corpus.name, len(table), copies)
    unusable = tuple(corpus.table["id"][~good])
    return Audio(folder, corpus.root, table, fingerprint, recordings, steady_fingerprint, unusable)


@functools.cache
def _checked_samples(folder: Path) -> Path:
    """Hash the samples once per process: nothing else would show that they are damaged."""
    return verified(folder, "samples.npy")


def list_sounds(corpus: Corpus) -> tuple[list[Sound], NDArray[np.int64], list[str]]:
    """List what to decode: each file once, speech before noise.

    Returns the sounds, the number of the clip of each table row, and the names of the noise recordings.
    """
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


def _in_table_order(clips: pd.DataFrame, order: NDArray[np.int64]) -> pd.DataFrame:
    """Order clips as the rows of the corpus table, then the noise recordings."""
    return clips.iloc[np.append(order, np.arange(len(order), len(clips)))].reset_index(drop=True)


def cache_key(corpus: Corpus, sounds: Iterable[Sound], sample_rate: int) -> str:
    """Hash what the decoded samples depend on: the code, the rate, and path, size, time and windows of each file."""
    code = code_hash("speechforget.data.audio.decode")
    digest = hashlib.sha256(f"{VERSION}\n{code}\n{corpus.root.resolve()}\n{sample_rate}\n".encode())
    for sound in sounds:
        try:
            status = os.stat(sound.path)  # noqa: PTH116  (half the time of Path.stat, for a hundred thousand files)
            state = f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"
        except OSError as error:
            state = f"error {error.errno}"
        digest.update(f"{sound.path}\n{state}\n{sound.spans}\n".encode())
    return digest.hexdigest()[:24]


def _bad_lines(names: pd.Series, problems: pd.Series) -> list[str]:
    bad = (problems != "").to_numpy()
    return [f"  {name}: {problem}" for name, problem in zip(names[bad], problems[bad], strict=True)]


def _report(name: str, recordings: int, bad: list[str], on_bad_audio: str, folder: Path) -> None:
    if not bad:
        return
    shown = bad[:BAD_FILES_SHOWN]
    if len(bad) > len(shown):
        shown.append(f"  ... {folder / BAD_FILES} lists all of them")
    count = f"{len(bad)} of {recordings} recordings of {name} cannot be used"
    if on_bad_audio == "error":
        fix = "repair or remove them, or leave them out with dataset.on_bad_audio=skip."
        raise UserError("\n".join([f"{count}: {fix}", *shown]))
    logger.warning("%s and are left out:\n%s", count, "\n".join(shown))


def _fingerprint(
    table: pd.DataFrame, files: pd.Series, noise: pd.Series, noise_files: pd.Series, sample_rate: int
) -> str:
    digest = hashlib.sha256(f"{VERSION} {sample_rate}".encode())
    # Only which rows share a file: the folder of a corpus is no part of its content.
    shared = pd.Series(pd.factorize(np.concatenate([table["path"], noise]))[0], name="path")
    columns = [table[column] for column in sorted(table.columns) if column != "path"]
    for column in [*columns, shared, files, noise_files]:
        digest.update(f"\x1d{column.name}\x1e".encode())
        digest.update("\x1f".join(map(str, column)).encode())
    return digest.hexdigest()
