"""A model folder: `model.json` says how to build the classifier, `weights.safetensors` holds its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.folder import load_classifier


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one recording: the likeliest label and every label's probability."""

    label: str
    probabilities: dict[str, float]


class Recogniser:
    """A finished classifier, ready for waveforms and files. labels: the names of its outputs, in order."""

    def __init__(self, classifier: nn.Module, labels: Sequence[str], sample_rate: int, seconds: float) -> None:
        self.classifier, self.labels, self.sample_rate, self.seconds = classifier, list(labels), sample_rate, seconds

    @torch.no_grad()
    def classify(self, recording: str | Path | Tensor, sample_rate: float | None = None) -> Prediction:
        """Classifies a sound file, or a waveform (samples,) in [-1, 1] at `sample_rate` Hz (default: the model's).

        Hears the middle `seconds` of what is longer. Raises UserError for a file that is no sound, for a waveform of another shape, for samples that
        are not finite or far from [-1, 1], and for a sample rate that is none or not the file's.
        """
        samples = self._samples(recording, sample_rate)
        room = round(self.seconds * self.sample_rate)
        start = max(len(samples) - room, 0) // 2
        heard = torch.from_numpy(samples[start : start + room].copy())
        length = torch.tensor([len(heard)])
        padded = torch.nn.functional.pad(heard, (0, room - len(heard)))[None]
        logits = self.classifier(padded, length).logits[0]
        if not logits.isfinite().all():
            raise UserError(
                "The model's answer is not finite: its weights are destroyed, or training diverged. Use another result."
            )
        named = dict(zip(self.labels, logits.softmax(dim=0).tolist(), strict=True))
        return Prediction(max(named, key=named.__getitem__), named)

    def _samples(self, recording: str | Path | Tensor, sample_rate: float | None) -> NDArray[np.float32]:
        """One channel (samples,) at the model's rate, checked as a file's samples are."""
        from speechforget.data.audio.files import BadSound, check_waveform, read_sound, resample

        if sample_rate is not None and not (
            isinstance(sample_rate, Real) and not isinstance(sample_rate, bool) and 0 < sample_rate < np.inf
        ):
            raise UserError(
                f"A sample rate must be a number above 0, in Hz, not {sample_rate!r}: give that of the waveform."
            )
        if isinstance(recording, (str, Path)):
            samples, rate = read_sound(Path(recording))
            if sample_rate not in {None, rate}:
                raise UserError(f"{recording} is at {rate} Hz, not {sample_rate}: leave sample_rate out for files.")
        else:
            samples, rate = _as_waveform(recording), sample_rate or self.sample_rate
        try:
            check_waveform(samples)
            if not len(heard := resample(samples, rate, self.sample_rate)):
                raise BadSound(f"too short ({len(samples)} samples)")
        except (BadSound, ValueError, RuntimeError) as bad:
            name = recording if isinstance(recording, (str, Path)) else "This waveform"
            raise UserError(f"{name} cannot be used: {bad}.") from None
        return heard


def _as_waveform(recording: Any) -> NDArray[np.float32]:
    """Raises UserError for what is no tensor of one dimension, or empty."""
    try:
        samples = torch.as_tensor(recording).detach().cpu()
        shape, numbers = tuple(samples.shape), not samples.is_complex() and samples.dtype != torch.bool
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"A recording is a file's name or a waveform of numbers, not {type(recording).__name__} ({error})."
        ) from None
    if len(shape) != 1 or not shape[0] or not numbers:
        raise UserError(
            f"A waveform must have the shape (samples,), not {shape}, and hold real numbers: give one channel of one recording."
        )
    return samples.to(torch.float32).numpy()


def load(folder: str | Path) -> Recogniser:
    """The classifier of a model folder, or the unlearned one of a result folder, which must lie where it was made: beside `unlearned`.

    Raises UserError when the folder is neither, and when the model of a result is not there.
    """
    place = Path(folder).expanduser()
    if (place / "result.json").exists():
        place = _unlearned(place)
    if not (place / "model.json").exists():
        raise UserError(
            f"{folder} is neither a model nor a result: give the folder of a result, as printed at the end of a run."
        )
    classifier, description = load_classifier(place)
    return Recogniser(classifier, description["labels"], description["sample_rate"], description["seconds"])


def _unlearned(result: Path) -> Path:
    """The folder of a result's model. Raises UserError where it is gone, as it is when the result alone was copied elsewhere."""
    try:
        name = str(json.loads((result / "result.json").read_text(encoding="utf-8"))["artefacts"]["unlearned"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{result / 'result.json'} cannot be read ({error!r}): copy the result again, or make it again."
        ) from error
    places = [home.parent.parent / "unlearned" / name for home in (result.absolute(), result.resolve())]
    for place in places:
        if (place / "model.json").exists():
            return place
    raise UserError(
        f"{result} is a result, but its model is not beside it: a result holds numbers only. "
        f"Copy the folder unlearned/{name} of the same output folder, too, to {places[0]}, or load that folder itself."
    )
