"""Load the model of a result, model or exported folder, and classify or transcribe recordings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechforget.data.transcripts import texts_of
from speechforget.errors import UserError, nearest
from speechforget.models.delivered import model_of
from speechforget.models.folder import build_classifier, load_classifier
from speechforget.models.transcriber import Transcriber
from speechforget.recognition.ctc import spoken

WINDOWS = ("scored", "middle", "average")
BESIDE_LIBRARY = "speechforget.json"  # describes a classifier whose weights the transformers library wrote
MOST_CHANNELS = 8
QUIETEST = 2 / 32768  # peak to peak: only the last bit of a 16-bit recording changes
FULL_SCALE, MOST_CLIPPED = 0.999, 0.5  # a sound is refused if more than this share of its samples is at full scale
BATCH = 32  # windows of one forward pass


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording: the most probable label, and the probability of every label."""

    label: str
    probabilities: dict[str, float]


class Heard(NamedTuple):
    """Hold one crop of a recording: which recording it is from, and its samples (samples,)."""

    recording: int
    samples: NDArray[np.float32]


class Recogniser:
    """A classifier for waveforms and files.

    labels: names of its outputs, in order. seconds: length of the crop that the classifier hears. windows: which crops
    of a longer recording are heard. `middle`: the one in its middle. `average`: as many as cover the whole recording,
    evenly spaced; their logits are averaged. `scored`: those that gave the numbers of the result, so its accuracies
    hold for the answers; `scored_windows` is their number.
    """

    def __init__(
        self,
        classifier: nn.Module,
        labels: Sequence[str],
        sample_rate: int,
        seconds: float,
        windows: str = WINDOWS[0],
        scored_windows: int = 1,
    ) -> None:
        if windows not in WINDOWS:
            raise UserError(f"There is no windows={windows!r}: {nearest(str(windows), WINDOWS)}.")
        self.classifier, self.labels, self.sample_rate, self.seconds = classifier, list(labels), sample_rate, seconds
        self.windows, self.scored_windows = windows, scored_windows

    @property
    def width(self) -> int:
        """Return the number of samples that the classifier hears at once."""
        return round(self.seconds * self.sample_rate)

    @overload
    def classify(
        self, recording: str | Path | Tensor | NDArray[Any], sample_rate: float | None = None
    ) -> Prediction: ...

    @overload
    def classify(self, recording: Sequence[Any], sample_rate: float | None = None) -> list[Prediction]: ...

    def classify(self, recording: Any, sample_rate: float | None = None) -> Prediction | list[Prediction]:
        """Classify a recording, or a list of recordings; each is an audio file or a waveform in [-1, 1].

        A waveform has the shape (samples,), or two axes, channels and samples in any order: channels are averaged, as
        those of a file are. It is at `sample_rate` Hz (default: that of the model). A list of numbers is one waveform.
        Raises UserError for what the classifier cannot hear: a file that is not audio, a waveform of another shape,
        samples that are not finite, far outside [-1, 1], clipped, silent or too few, and a sample rate that is invalid
        or not that of the file; and for a model of transcripts.
        """
        if self.transcribes:
            raise UserError("This model writes down what it hears, and knows no classes: call transcribe.")
        heard = [
            self._crops(self._samples(one, sample_rate, name), number, name)
            for number, (name, one) in enumerate(_named(recording))
        ]
        logits = self._logits([crop for crops in heard for crop in crops], len(heard))
        found = [self._prediction(row) for row in logits]
        return found if _is_list(recording) else found[0]

    @property
    def transcribes(self) -> bool:
        """Return whether the model writes down what it hears."""
        return isinstance(self.classifier, Transcriber)

    @torch.no_grad()
    def transcribe(self, recording: Any, sample_rate: float | None = None) -> str | list[str]:
        """Write down what is said in a recording, or in each of a list; for both see `classify`.

        A recording is heard whole, whatever its length. The text is the greedy one, without a language model.
        Raises UserError as `classify` does, and for a model of classes.
        """
        if not self.transcribes:
            raise UserError("This model answers with a class, and writes no transcripts: call classify.")
        device, found = next(self.classifier.parameters()).device, []
        for name, one in _named(recording):
            samples = torch.from_numpy(self._samples(one, sample_rate, name).copy())[None].to(device)
            logits = self.classifier(samples, torch.tensor([samples.shape[1]], device=device)).logits.cpu()
            _check_finite(logits)
            found += texts_of(spoken(logits).numpy(), self.labels)
        return found if _is_list(recording) else found[0]

    @torch.no_grad()
    def _logits(self, crops: Sequence[Heard], recordings: int) -> Tensor:
        """Return the mean logits of the crops of each recording, (recordings, classes) float32."""
        device = next(self.classifier.parameters(), torch.empty(0)).device
        sums, counts = torch.zeros(recordings, len(self.labels)), torch.zeros(recordings, 1)
        for start in range(0, len(crops), BATCH):
            some = crops[start : start + BATCH]
            waveform = torch.zeros(len(some), self.width)
            for row, crop in enumerate(some):
                waveform[row, : len(crop.samples)] = torch.from_numpy(crop.samples.copy())
            lengths = torch.tensor([len(crop.samples) for crop in some])
            found = self.classifier(waveform.to(device), lengths.to(device)).logits.float().cpu()
            owners = torch.tensor([crop.recording for crop in some])
            sums.index_add_(0, owners, found)
            counts.index_add_(0, owners, torch.ones(len(some), 1))
        return sums / counts

    def _prediction(self, logits: Tensor) -> Prediction:
        _check_finite(logits)
        named = dict(zip(self.labels, logits.softmax(dim=0).tolist(), strict=True))
        return Prediction(max(named, key=named.__getitem__), named)

    def _crops(self, samples: NDArray[np.float32], number: int, name: str) -> list[Heard]:
        """Cut the crops of a recording, as scoring does. Raises UserError if all of them are silent."""
        width, spare = self.width, max(len(samples) - self.width, 0)
        count = math.ceil(len(samples) / width) if self.windows == "average" else self.scored_windows
        alone = count == 1 or self.windows == "middle" or not spare
        positions = [0.5] if alone else np.linspace(0, 1, count).tolist()
        starts = [int(spare * position) for position in positions]
        crops = [samples[start : start + width] for start in starts]
        if all(np.ptp(crop) <= QUIETEST for crop in crops):
            raise UserError(
                f"{name} is silent in the {self.seconds:g} s that the classifier hears (windows={self.windows}): "
                "cut the silence off, or load the model with windows='average'."
            )
        return [Heard(number, crop) for crop in crops]

    def _samples(self, recording: Any, sample_rate: float | None, name: str) -> NDArray[np.float32]:
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
            resampled = resample(samples, rate, self.sample_rate)
            _check_heard(samples, resampled, self.sample_rate)
        except (BadSound, ValueError, RuntimeError) as bad:
            raise UserError(f"{name} cannot be used: {bad}.") from None
        return resampled


def _check_heard(samples: NDArray[np.float32], resampled: NDArray[np.float32], sample_rate: int) -> None:
    """Raise BadSound for a sound that no classifier can hear: too short, silent, or clipped almost throughout."""
    from speechforget.data.audio.files import SHORTEST, BadSound

    if len(resampled) < SHORTEST * sample_rate:
        raise BadSound(f"too short ({len(samples)} sample{'s' * (len(samples) != 1)})")
    if np.ptp(samples) <= QUIETEST:
        raise BadSound("silent (all samples are equal)")
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE))
    if clipped > MOST_CLIPPED:
        raise BadSound(f"clipped ({clipped:.0%} of its samples are at full scale)")


def _check_finite(logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise UserError(
            "The model's output is not finite: weights are damaged, or training diverged. Use another result."
        )


def _is_list(recording: Any) -> bool:
    return isinstance(recording, (list, tuple)) and not _is_waveform(recording)


def _named(recording: Any) -> Iterator[tuple[str, Any]]:
    """Yield each recording with its name in messages."""
    for number, one in enumerate(recording if _is_list(recording) else [recording], start=1):
        waveform = f"Waveform {number} of the list" if _is_list(recording) else "This waveform"
        yield (str(one) if isinstance(one, (str, Path)) else waveform), one


def _is_waveform(given: Sequence[Any]) -> bool:
    """Return whether a list holds the samples of one recording."""
    return bool(given) and all(isinstance(one, Real) and not isinstance(one, bool) for one in given)


def _as_waveform(recording: Any) -> NDArray[np.float32]:
    """Return samples (samples,) float32, the mean of all channels. Raises UserError for anything but real numbers."""
    try:
        samples = torch.as_tensor(recording).detach().cpu()
        shape, numbers = tuple(samples.shape), not samples.is_complex() and samples.dtype != torch.bool
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"A recording must be a file name or a waveform of numbers, not {type(recording).__name__} ({error})."
        ) from None
    several = len(shape) == 2 and 1 <= min(shape) <= MOST_CHANNELS and min(shape) < max(shape)
    if not numbers or not all(shape) or not (len(shape) == 1 or several):
        raise UserError(
            f"A waveform must have the shape (samples,) or (channels, samples), not {shape}, and real numbers: "
            "give one recording, or a list of recordings."
        )
    mono = samples.to(torch.float32)
    return (mono.mean(dim=shape.index(min(shape))) if several else mono).numpy()


def load(folder: str | Path, device: str = "auto", windows: str = WINDOWS[0]) -> Recogniser:
    """Load the classifier of a model folder or an exported folder, or the model that a result folder delivers.

    device: `auto` (a GPU if PyTorch sees one), or a name such as `cpu` or `cuda:1`. windows: see `Recogniser`; the
    crops that gave the numbers of a model folder are not known, so `scored` is `middle` there.
    Raises UserError for any other folder, if the model of a result is missing, and for a device that is not here.
    """
    asked = found = Path(folder).expanduser()
    if (found / "result.json").exists():
        found = model_of(found).folder
    if not any((found / name).exists() for name in ("model.json", BESIDE_LIBRARY)):
        raise UserError(
            f"{folder} is neither a model nor a result: give the result folder that a run prints at its end."
        )
    classifier, description = (load_classifier if (found / "model.json").exists() else _from_library)(found)
    scored = description.get("windows") or scored_windows(asked)
    where = _device(device)
    facts = (description["labels"], description["sample_rate"], description["seconds"])
    return Recogniser(classifier.to(where), *facts, windows, scored)


def scored_windows(result: Path) -> int:
    """Return how many crops of a longer recording were scored for a result; 1, the middle, if it does not say."""
    config = result / "config.yaml"
    return int(OmegaConf.select(OmegaConf.load(config), "dataset.windows", default=1)) if config.exists() else 1


def _from_library(folder: Path) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load a classifier from the weights that the transformers library wrote. Raises UserError."""
    try:
        description = json.loads((folder / BESIDE_LIBRARY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no readable model ({error}): copy or export it again.") from error
    options = {**description["model"], "pretrained": str(folder), "head": "keep"}
    classifier = build_classifier(options, len(description["labels"]), description["sample_rate"])
    return classifier.eval(), description


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"The device {asked!r} cannot be used ({reason}): choose auto or cpu.") from None
    return device
