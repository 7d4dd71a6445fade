"""Make a source of an export around any classifier, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechforget.export.corpus import made_clips
from speechforget.export.model_folder import Export
from speechforget.export.source import Source
from speechforget.models.delivered import Model
from speechforget.models.folder import save_classifier
from speechforget.store import Store

RATE = 16000


def exporting(folder: Path, classifier: Any, model: dict[str, Any], labels: list[str]) -> Export:
    """An export of the classifier that the options `model` describe, into `folder / "exported"`."""
    description = {"model": model, "labels": labels, "sample_rate": RATE, "seconds": 1.0}
    store = Store(folder)
    made = store.produce("unlearned", "model", {}, lambda place, _: save_classifier(place, classifier, description))
    (folder / "exported").mkdir()
    return Export(Source(folder, {}, Model("unlearned", made.folder)), folder / "exported")


def clips() -> list[Tensor]:
    """Sounds of eight lengths, from a third of a second to more than two."""
    return made_clips(RATE, "this is a test").sounds


def at_once(run: Any, sounds: list[Tensor]) -> Tensor:
    """The logits of all sounds in one padded batch."""
    lengths = torch.tensor([len(sound) for sound in sounds])
    return run(torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True), lengths)[0]
