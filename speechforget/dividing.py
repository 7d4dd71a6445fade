"""Stage: corpus -> every utterance's label and subset, and the streams that later stages read.

Torch is imported when streams are made, so a run in which everything exists does without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from speechforget.data.audio import Audio, decode
from speechforget.data.request import Request
from speechforget.data.split import split
from speechforget.store import Producer, code_hash, verified

if TYPE_CHECKING:
    from speechforget.data.streams import Sources

VERSION = 1  # of what this stage computes


@dataclass(frozen=True)
class Data:
    """A corpus, divided: `table` holds label and subset of every utterance, `classes` the label names in the order of the outputs."""

    audio: Audio
    table: pd.DataFrame
    classes: list[str]
    key: str

    @cached_property
    def numbers(self) -> np.ndarray:
        """Class number of each row."""
        return self.table["label"].map({name: number for number, name in enumerate(self.classes)}).to_numpy(np.int64)

    def rows(self, subset: str) -> np.ndarray:
        """Row numbers of train, validation, holdout or test."""
        return np.flatnonzero(self.table["subset"].to_numpy() == subset)


def divide(config: Mapping[str, Any], store: Producer) -> Data:
    """Decodes the corpus where that has not been done, and gives every utterance its label and subset."""
    from hydra.utils import instantiate

    dataset, cache = config["dataset"], Path(config["cache"])
    corpus = instantiate(dict(dataset["corpus"]), root=dataset["root"], label=dataset["label"], cache=cache)
    audio = decode(corpus, cache, dataset["sample_rate"], dataset["on_bad_audio"], lock=config["lock"])
    choices = {name: dataset[name] for name in ("label", "validation", "holdout", "copies", "split_seed")}
    inputs = {"version": VERSION, "corpus": audio.fingerprint, "code": code_hash("speechforget.data.split"), **choices}

    def build(folder: Path, _: str) -> None:
        table = split(audio.table, dataset["label"], dataset["validation"], dataset["holdout"], dataset["copies"], dataset["split_seed"])
        table.to_csv(folder / "utterances.csv", index=False)

    artefact = store.produce("split", f"{dataset['name']}-{dataset['label']}", inputs, build)
    table = pd.read_csv(verified(artefact.folder, "utterances.csv"), dtype=str, keep_default_na=False)
    for column, kind in (("offset", np.int64), ("samples", np.int64), ("seconds", np.float64)):
        table[column] = table[column].astype(kind)
    return Data(audio, table, sorted(table["label"][table["subset"] == "train"].unique()), artefact.key)


def make_sources(config: Mapping[str, Any], data: Data, request: Request | None) -> Sources:
    """The utterances by name. Where a class is forgotten, `validation` holds the remaining classes, `validation_request` the request's."""
    from speechforget import ranks
    from speechforget.data.streams import Sources, Waveforms
    from speechforget.loading import build_augment

    train, validation = data.rows("train"), data.rows("validation")
    rows = {"all": np.arange(len(data.table)), "train": train, "validation": validation}
    if request is not None:
        gone = np.isin(data.table["label"].to_numpy(), request.forgotten)
        retain = np.setdiff1d(train, request.forget)
        rows |= {"retain": retain, "forget": np.sort(request.forget)}
        rows |= {"validation": validation[~gone[validation]], "validation_forgotten": validation[gone[validation]]}
        rows["validation_request"] = rows["validation_forgotten"] if request.forgotten else validation
    augment = build_augment(config["train"]["augment"])
    offset, length = (data.table[name].to_numpy() for name in ("offset", "samples"))
    flat = data.audio.samples()
    places = zip(data.audio.noise["offset"], data.audio.noise["samples"], strict=True)
    noise = [flat[start : start + count] for start, count in places]
    waveforms = Waveforms(flat, offset, length, round(config["dataset"]["seconds"] * config["dataset"]["sample_rate"]))
    noise_heard = partial(augment, noise=np.concatenate(noise) if noise else None)
    return Sources(waveforms, data.numbers, rows, noise_heard, (ranks.rank(), ranks.world()))
