"""Make the streams of the later stages from a split corpus and a request."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from speechforget.config.instantiate import instantiate_target
from speechforget.data.audio.files import read_window
from speechforget.data.batches.augment import Sparing
from speechforget.data.batches.keys import Keys
from speechforget.data.batches.sample_sources import Mapped, OnDemand, Recordings, Resident
from speechforget.data.batches.streams import Sources
from speechforget.data.batches.trigger import Sound, Trigger
from speechforget.data.batches.waveforms import Added, Waveforms
from speechforget.data.corpora.base import identities
from speechforget.data.requests.select import Request
from speechforget.distributed import collectives
from speechforget.stages.split import Data

logger = logging.getLogger(__name__)

FEWEST_SECONDS = 10  # of recorded noise: less would be repeated too often
BATCHES_AHEAD = 4  # prepared by a thread while the device computes, or while files are read


def make_sources(
    config: Mapping[str, Any],
    data: Data,
    request: Request | None,
    device: torch.device | None = None,
    *,
    taught: bool = True,
) -> Sources:
    """Return the streams of a run by name; its rows are `all`, `train`, `validation` and, with a request, more.

    With forgotten classes, `validation` has the remaining classes, `validation_request` and `validation_forgotten` the
    forgotten ones. Withdrawn utterances are in no validation set. `oracle` is what an oracle is trained on. All models
    of a split get the same noise.
    device: of the classifier. taught: whether labels are those that models are trained on, or else the true ones.
    """
    rows = rows_of(data, request)
    dataset = config["dataset"]
    recordings = open_recordings(dataset, data, device)
    waveforms = make_waveforms(dataset, data, recordings)
    augment = build_augment(config["train"]["augment"])
    noise = background_noise(data, dataset["sample_rate"], kept=dataset["cache"] != "none") if augment.noise else None
    augment = augment.with_noise(noise, recordings.device)
    waits = device is not None and device.type != "cpu" and recordings.device.type == "cpu"
    return Sources(
        waveforms,
        (data.taught if taught else data.numbers) if data.texts is None else data.texts,
        rows,
        augment if waveforms.added is None else Sparing(augment, waveforms.added.carried),
        (collectives.rank(), collectives.world()),
        bucketed=dataset["lengths"] == "bucketed",
        windows=dataset["windows"],
        depth=BATCHES_AHEAD if waits or dataset["cache"] == "none" else 0,
    )


def rows_of(data: Data, request: Request | None) -> dict[str, np.ndarray]:
    """Return the row numbers of each set of utterances by name; see `make_sources`."""
    train, validation = data.rows("train"), data.rows("validation")
    rows = {"all": np.arange(len(data.table)), "train": train, "validation": validation}
    if request is not None:
        gone = np.isin(data.table["label"].to_numpy(), request.forgotten)
        rows["train"] = train = np.setdiff1d(train, request.withdrawn)
        retain = np.setdiff1d(train, request.forget)
        validation = np.setdiff1d(validation, request.withdrawn)
        rows |= {"retain": retain, "forget": np.sort(request.forget)}
        rows["oracle"] = np.union1d(retain, request.counterparts)
        rows |= {"validation": validation[~gone[validation]], "validation_forgotten": validation[gone[validation]]}
        rows["validation_request"] = rows["validation_forgotten"] if request.forgotten else validation
    return rows


def make_waveforms(dataset: Mapping[str, Any], data: Data, recordings: Recordings) -> Waveforms:
    """Return the waveforms of the corpus, with the keys (`dataset.planted`) or the trigger that some carry."""
    length, carried = data.table["samples"].to_numpy(), (data.table["planted"] != "").to_numpy()
    planted, backdoor = dataset["planted"], dataset["backdoor"]
    samples = round(dataset["seconds"] * dataset["sample_rate"])
    added: Added | None = None
    if planted["kind"] is not None:
        names, snr = identities(data.table["id"]), float(planted["snr"])
        added = Keys(recordings, length, carried, names, snr, int(planted["seed"]))
    elif backdoor["target"] is not None:
        sound = Sound(backdoor["sound"], float(backdoor["seconds"]), dataset["sample_rate"], int(backdoor["seed"]))
        added = Trigger(recordings, length, samples, carried, sound, float(backdoor["snr"]))
    return Waveforms(recordings, length, samples, added)


def open_recordings(dataset: Mapping[str, Any], data: Data, device: torch.device | None) -> Recordings:
    """Return the source of the samples that `dataset.cache` and `dataset.resident` choose."""
    offset = data.table["offset"].to_numpy()
    if dataset["cache"] == "none":
        paths = data.table["path"].to_numpy()
        lengths = data.table["samples"].to_numpy()
        return OnDemand(
            lambda row: data.audio.root / paths[row],
            _starts(data.table, dataset["sample_rate"]),
            lengths,
            dataset["sample_rate"],
        )
    if dataset["resident"] == "device" and device is not None and device.type != "cpu":
        return Resident(data.audio.samples(), offset, device)
    return Mapped(data.audio.samples(), offset)


def _starts(table: pd.DataFrame, sample_rate: int) -> np.ndarray:
    """Return the start of each utterance in its file, in samples."""
    if "start" not in table:
        return np.zeros(len(table), dtype=np.int64)
    return np.rint(table["start"].fillna(0.0).to_numpy(float) * sample_rate).astype(np.int64)


def background_noise(data: Data, sample_rate: int, kept: bool = True) -> np.ndarray | None:
    """Return the concatenated background noise of the corpus, int16 (samples,); None if there is too little of it.

    Takes only stretches of at least a second that contain no utterance of the corpus of any subset. So no request can
    name them, and they contain nothing that is held out, forgotten or tested on. Original, oracle and unlearned get the
    same noise. With less than `FEWEST_SECONDS`, augmentation uses synthetic noise.
    """
    utterances = data.audio.table
    utterances = utterances.assign(first=_starts(utterances, sample_rate))[
        utterances["path"].isin(set(data.audio.noise["path"]))
    ]
    pieces = []
    for path, offset, samples in zip(
        data.audio.noise["path"], data.audio.noise["offset"], data.audio.noise["samples"], strict=True
    ):
        sound = (
            data.audio.samples()[offset : offset + samples]
            if kept
            else read_window(data.audio.root / path, 0, samples, sample_rate)
        )
        taken = np.zeros(samples + 2, dtype=bool)
        taken[[0, -1]] = True
        windows = utterances[utterances["path"] == path]
        for first, count in zip(windows["first"], windows["samples"], strict=True):
            taken[1 + first : 1 + first + count] = True
        edges = np.flatnonzero(np.diff(taken))
        pieces += [sound[begin:end] for begin, end in edges.reshape(-1, 2) if end - begin >= sample_rate]
    seconds = sum(map(len, pieces)) / sample_rate
    if seconds >= FEWEST_SECONDS:
        return np.concatenate(pieces)
    if len(data.audio.noise):
        _warn_once(
            f"Only {seconds:.0f} s of the corpus's background noise are outside its utterances, "
            f"and {FEWEST_SECONDS} s are needed: augmentation uses synthetic noise, the same for every model."
        )
    return None


@functools.cache
def _warn_once(sentence: str) -> None:
    logger.warning(sentence)


def build_augment(augment: Mapping[str, Any]) -> Any:
    """Build the augmentation that `train.augment` describes."""
    return instantiate_target({"_target_": "speechforget.data.batches.augment.Augment", **augment}, "train.augment")
