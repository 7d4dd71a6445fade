"""Stage: decode a corpus and give every utterance its label and subset. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from speechforget.config.inputs import code_of, dividing_choices
from speechforget.data.audio.cache import Audio, decode
from speechforget.data.dependence import SURPLUS, depend
from speechforget.data.known_answers import change
from speechforget.data.split import split
from speechforget.data.tables.transcript import TEXT
from speechforget.data.transcripts import OTHER, SAID, classes_of, durations, numbered, outputs
from speechforget.store import Producer, verified

VERSION = 3  # raise it whenever the same inputs give another split


@dataclass(frozen=True)
class Data:
    """A split corpus. table: label and subset of every utterance. classes: label names in the order of score tables.

    outputs: names of the outputs of a model: the classes, or the blank and all letters of the transcripts.
    inputs: what the split was made from. key: their hash.
    """

    audio: Audio
    table: pd.DataFrame
    classes: list[str]
    key: str
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def texts(self) -> np.ndarray | None:
        """Return the transcript of each row as numbers of outputs, filled up with -1; None for classes."""
        return numbered(self.table, self.outputs) if self.classes == [SAID, OTHER] else None

    @cached_property
    def outputs(self) -> list[str]:
        """Name the outputs of a model, in their order."""
        return outputs(self.table) if self.classes == [SAID, OTHER] else self.classes

    @cached_property
    def numbers(self) -> np.ndarray:
        """Return the class number of each row."""
        return self._numbers("label")

    @cached_property
    def taught(self) -> np.ndarray:
        """Return the class number that each row is trained on, which is wrong in recordings of a known answer."""
        return self._numbers("taught")

    @cached_property
    def confused(self) -> tuple[int, ...]:
        """Return the class numbers of two labels that were exchanged in some training recordings, ascending."""
        changed = self.taught != self.numbers
        wrong, taught = np.unique(self.numbers[changed]), np.unique(self.taught[changed])
        return (int(wrong[0]), int(wrong[1])) if len(wrong) == 2 and np.array_equal(wrong, taught) else ()

    def _numbers(self, column: str) -> np.ndarray:
        return self.table[column].map({name: number for number, name in enumerate(self.classes)}).to_numpy(np.int64)

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Return the ids that are in no subset -> the hash of their samples, "" for unusable recordings."""
        known = dict.fromkeys(self.audio.unusable, "") | dict(
            zip(self.audio.table["id"], self.audio.table["sha1"], strict=True)
        )
        used = set(self.table["id"])
        return {identity: sha1 for identity, sha1 in known.items() if identity not in used}

    def speakers(self, withdrawn: np.ndarray) -> np.ndarray | None:
        """Return who speaks, without the withdrawn rows; None for a corpus that does not say."""
        return np.delete(self.table["speaker"].to_numpy(dtype=str), withdrawn) if "speaker" in self.table else None

    def rows(self, subset: str) -> np.ndarray:
        """Return the row numbers of train, validation, holdout or test."""
        return np.flatnonzero(self.table["subset"].to_numpy() == subset)


def split_corpus(config: Mapping[str, Any], store: Producer) -> Data:
    """Decode the corpus unless a cache holds it, and find or make its split in the store."""
    from hydra.utils import instantiate

    dataset, cache = config["dataset"], Path(config["cache"])
    corpus = instantiate(dict(dataset["corpus"]), root=dataset["root"], label=dataset["label"], cache=cache)
    audio = decode(
        corpus, cache, dataset["sample_rate"], dataset["on_bad_audio"], config["lock"], dataset["cache"] != "none"
    )
    inputs = {"version": VERSION, "corpus": audio.fingerprint, "code": code_of("split"), **dividing_choices(dataset)}

    def build(folder: Path, _: str) -> None:
        table = split(
            audio.table,
            dataset["label"],
            dataset["validation"],
            dataset["holdout"],
            dataset["copies"],
            dataset["split_seed"],
        )
        table = depend(table, dataset["dependent"])
        table = change(table, dataset["planted"], dataset["confused"], dataset["mislabelled"], dataset["backdoor"])
        columns = ["id", "label", "unit", "subset", "planted", "taught", *([SURPLUS] if SURPLUS in table else [])]
        table[columns].to_csv(folder / "utterances.csv", index=False)

    artefact = store.produce("split", f"{dataset['name']}-{dataset['label']}", inputs, build)
    subsets = pd.read_csv(verified(artefact.folder, "utterances.csv"), dtype=str, keep_default_na=False)
    # A stored split serves every copy of its corpus; only the table of this copy knows where the recordings are.
    table = audio.table.drop(columns="subset").merge(subsets, on="id", how="right", validate="one_to_one")
    if dataset["label"] == TEXT:
        table = table.assign(duration=durations(table))
    return Data(audio, table, classes_of(table), artefact.key, inputs)
