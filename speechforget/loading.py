"""A model folder: `model.json` says how to build the classifier, `weights.safetensors` holds its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechforget import ranks
from speechforget.adapting import adapt
from speechforget.batch_norm import globalised
from speechforget.dropout import by_utterance
from speechforget.errors import UserError
from speechforget.methods.switches import SWITCHES, equip
from speechforget.optimizers import make_optimizer
from speechforget.pretrained import fetched
from speechforget.store import write_json


def build_classifier(model: Mapping[str, Any], classes: int, sample_rate: int) -> nn.Module:
    """A classifier with fresh weights (from torch's global generator), but for those that its config says are pretrained.

    Raises UserError for options that the model does not take.
    """
    options = fetched({name: value for name, value in model.items() if name != "name"})
    classifier = by_utterance(_instantiate(options, "model", classes=classes, sample_rate=sample_rate))
    return globalised(classifier) if ranks.world() > 1 else classifier


def _instantiate(options: Mapping[str, Any], group: str, **arguments: Any) -> Any:
    _check_types(options, group)
    try:
        return instantiate(dict(options), **arguments, _convert_="all")
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, (TypeError, ImportError, ValueError)):
            raise UserError(f"The {group} '{options['_target_']}' cannot be built as asked: {cause}.") from error
        raise


def _check_types(options: Mapping[str, Any], group: str) -> None:
    """Raises UserError for a plain number, word or truth value that is of another kind than its argument."""
    try:
        target = get_class(options["_target_"])
        kinds = [kind for kind in reversed(target.__mro__) if "__init__" in vars(kind)]  # one may hand the rest of its arguments on to another
        hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind.__init__).items()}  # type: ignore[misc]
    except Exception:  # the target itself is wrong, which building it says better
        return
    for name, kind in hints.items():
        value = options.get(name)
        if kind in {int, float, bool, str} and value is not None:
            fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
            if not fits:
                raise UserError(f"{group}.{name} must be of the kind '{kind.__name__}', not {value!r}.")


def build_method(method: Mapping[str, Any]) -> Any:
    """The method that its yaml describes, with its switches (`name`, `requests`, `reason`, `tune` and `tried` are the pipeline's)."""
    switches = {name: value for name, value in method.items() if name in SWITCHES}
    own = {name: value for name, value in method.items() if name not in {"name", "requests", "reason", "tune", "tried", *SWITCHES}}
    return equip(_instantiate(own, "method"), switches)


def build_augment(augment: Mapping[str, Any]) -> Any:
    """The augmentation that `train.augment` describes."""
    return _instantiate({"_target_": "speechforget.data.augment.Augment", **augment}, "train.augment")


def rehearse(config: Mapping[str, Any]) -> None:
    """Builds what a run will need, so that a mistake in the numbers of its last stage shows before the first one is trained."""
    stand_in = [nn.Parameter(torch.zeros(1))]
    make_optimizer(stand_in, config["train"]["optimizer"], 1.0)
    method = build_method(config["method"])
    make_optimizer(stand_in, method.optimizer, 1.0)
    build_augment(config["train"]["augment"])
    classifier = rehearse_classifier(config["model"], config["dataset"]["sample_rate"])
    adapt(classifier, method.trainable)
    if config["dataset"]["lengths"] == "bucketed" and getattr(classifier, "padding_counts", False):
        name = config["model"]["name"]
        raise UserError(f"What model={name} answers depends on the silence that fills a batch up: use dataset.lengths=fixed, or another model.")
    if config["train"]["margin"] and not hasattr(classifier.head, "scale"):
        raise UserError(
            f"train.margin is for models whose head measures cosines, such as model=ecapa_tdnn, not {config['model']['name']}: set it to 0."
        )


def rehearse_classifier(model: Mapping[str, Any], sample_rate: int) -> nn.Module:
    """Builds a classifier, one that takes pretrained weights without them and without memory: they can be gigabytes."""
    if "pretrained" not in model:
        return build_classifier(model, 2, sample_rate)
    random = {"pretrained": None, "head": "new"}
    with torch.device("meta"):
        return build_classifier({name: random.get(name, value) for name, value in model.items()}, 2, sample_rate)


def save_classifier(folder: Path, classifier: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes weights and description (model, labels, sample_rate, seconds).

    A classifier can say in `rebuilt_with` by which options it is built again where those it was built with no longer hold: a checkpoint may be gone.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    temporary = folder / "weights.partial"
    save_file(weights, temporary)
    temporary.replace(folder / "weights.safetensors")
    model = {**description["model"], **getattr(classifier, "rebuilt_with", {})}
    write_json(folder / "model.json", {**description, "model": model})


def load_classifier(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The classifier of a model folder in evaluation mode, and its description."""
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
    except Exception as error:
        raise UserError(f"{folder} holds no readable model ({error}): remove it and run again.") from error
    classifier = build_classifier(description["model"], len(description["labels"]), description["sample_rate"])
    classifier.load_state_dict(weights)
    return classifier.eval(), description


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
            raise UserError("The model's answer is not finite: its weights are destroyed, or training diverged. Use another result.")
        named = dict(zip(self.labels, logits.softmax(dim=0).tolist(), strict=True))
        return Prediction(max(named, key=named.__getitem__), named)

    def _samples(self, recording: str | Path | Tensor, sample_rate: float | None) -> NDArray[np.float32]:
        """One channel (samples,) at the model's rate, checked as a file's samples are."""
        from speechforget.data.sound import BadSound, check_waveform, read_sound, resample

        if sample_rate is not None and not (isinstance(sample_rate, Real) and not isinstance(sample_rate, bool) and 0 < sample_rate < np.inf):
            raise UserError(f"A sample rate must be a number above 0, in Hz, not {sample_rate!r}: give that of the waveform.")
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
        raise UserError(f"A recording is a file's name or a waveform of numbers, not {type(recording).__name__} ({error}).") from None
    if len(shape) != 1 or not shape[0] or not numbers:
        raise UserError(f"A waveform must have the shape (samples,), not {shape}, and hold real numbers: give one channel of one recording.")
    return samples.to(torch.float32).numpy()


def load(folder: str | Path) -> Recogniser:
    """The classifier of a model folder, or the unlearned one of a result folder, which must lie where it was made: beside `unlearned`.

    Raises UserError when the folder is neither, and when the model of a result is not there.
    """
    place = Path(folder).expanduser()
    if (place / "result.json").exists():
        place = _unlearned(place)
    if not (place / "model.json").exists():
        raise UserError(f"{folder} is neither a model nor a result: give the folder of a result, as printed at the end of a run.")
    classifier, description = load_classifier(place)
    return Recogniser(classifier, description["labels"], description["sample_rate"], description["seconds"])


def _unlearned(result: Path) -> Path:
    """The folder of a result's model. Raises UserError where it is gone, as it is when the result alone was copied elsewhere."""
    try:
        name = str(json.loads((result / "result.json").read_text(encoding="utf-8"))["artefacts"]["unlearned"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{result / 'result.json'} cannot be read ({error!r}): copy the result again, or make it again.") from error
    places = [home.parent.parent / "unlearned" / name for home in (result.absolute(), result.resolve())]
    for place in places:
        if (place / "model.json").exists():
            return place
    raise UserError(
        f"{result} is a result, but its model is not beside it: a result holds numbers only. "
        f"Copy the folder unlearned/{name} of the same output folder, too, to {places[0]}, or load that folder itself."
    )
