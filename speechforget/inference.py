"""Load the classifier of a result or model folder and classify recordings."""

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
    """The answer for one recording: the most probable label, and the probability of every label."""

    label: str
    probabilities: dict[str, float]


class Recogniser:
    """A classifier for waveforms and files. labels: names of its outputs, in order."""

    def __init__(self, classifier: nn.Module, labels: Sequence[str], sample_rate: int, seconds: float) -> None:
        self.classifier, self.labels, self.sample_rate, self.seconds = classifier, list(labels), sample_rate, seconds

    @torch.no_grad()
    def classify(self, recording: str | Path | Tensor, sample_rate: float | None = None) -> Prediction:
        """Classify an audio file, or a waveform (samples,) in [-1, 1] at `sample_rate` Hz (default: that of the model).

        Only the middle `seconds` of a longer recording are used.
        Raises UserError for a file that is not audio, a waveform of another shape, samples that are not finite or far
        outside [-1, 1], and a sample rate that is invalid or not that of the file.
        """
        samples = self._samples(recording, sample_rate)
        width = round(self.seconds * self.sample_rate)
        start = max(len(samples) - width, 0) // 2
        crop = torch.from_numpy(samples[start : start + width].copy())
        length = torch.tensor([len(crop)])
        padded = torch.nn.functional.pad(crop, (0, width - len(crop)))[None]
        logits = self.classifier(padded, length).logits[0]
        if not logits.isfinite().all():
            raise UserError(
                "The model's output is not finite: weights are damaged, or training diverged. Use another result."
            )
        named = dict(zip(self.labels, logits.softmax(dim=0).tolist(), strict=True))
        return Prediction(max(named, key=named.__getitem__), named)

    def _samples(self, recording: str | Path | Tensor, sample_rate: float | None) -> NDArray[np.float32]:
        """Return one channel (samples,) at the sample rate of the model, checked."""
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
                raise UserError(f"{recording} is at {rate} Hz, not {sample_rate}: leave out sample_rate for files.")
        else:
            samples, rate = _as_waveform(recording), sample_rate or self.sample_rate
        try:
            check_waveform(samples)
            if not len(resampled := resample(samples, rate, self.sample_rate)):
                raise BadSound(f"too short ({len(samples)} samples)")
        except (BadSound, ValueError, RuntimeError) as bad:
            name = recording if isinstance(recording, (str, Path)) else "This waveform"
            raise UserError(f"{name} cannot be used: {bad}.") from None
        return resampled


def _as_waveform(recording: Any) -> NDArray[np.float32]:
    """Return samples (samples,) float32. Raises UserError for anything but one channel of real numbers."""
    try:
        samples = torch.as_tensor(recording).detach().cpu()
        shape, numbers = tuple(samples.shape), not samples.is_complex() and samples.dtype != torch.bool
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"A recording must be a file name or a waveform of numbers, not {type(recording).__name__} ({error})."
        ) from None
    if len(shape) != 1 or not shape[0] or not numbers:
        raise UserError(
            f"A waveform must have the shape (samples,), not {shape}, and real numbers: "
            "give one channel of one recording."
        )
    return samples.to(torch.float32).numpy()


def load(folder: str | Path) -> Recogniser:
    """Load the classifier of a model folder, or the unlearned one of a result folder in its output folder.

    Raises UserError for any other folder, and if the model of a result is missing.
    """
    found = Path(folder).expanduser()
    if (found / "result.json").exists():
        found = _unlearned(found)
    if not (found / "model.json").exists():
        raise UserError(
            f"{folder} is neither a model nor a result: give the result folder that a run prints at its end."
        )
    classifier, description = load_classifier(found)
    return Recogniser(classifier, description["labels"], description["sample_rate"], description["seconds"])


def _unlearned(result: Path) -> Path:
    """Return the model folder of a result. Raises UserError if it is missing, such as beside a copied result."""
    try:
        name = str(json.loads((result / "result.json").read_text(encoding="utf-8"))["artefacts"]["unlearned"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{result / 'result.json'} cannot be read ({error!r}): copy the result again, or make it again."
        ) from error
    folders = [own.parent.parent / "unlearned" / name for own in (result.absolute(), result.resolve())]
    for folder in folders:
        if (folder / "model.json").exists():
            return folder
    raise UserError(
        f"{result} is a result, but its model is missing: a result holds numbers only. "
        f"Copy the folder unlearned/{name} of the same output folder to {folders[0]}, or load that folder itself."
    )
