"""Where the original comes from, this project's training or a checkpoint of the user's; whether there is an oracle; what readers must know of both.

Read from JSON alone, so that a run in which everything exists, and a plan, need no torch; `importing` makes an original of a checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechforget.errors import UserError
from speechforget.models.lookalikes import check_no_pointer, instead
from speechforget.models.pretrained import labels_of
from speechforget.store import canonical, differences
from speechforget.store.manifest import sha256

OURS = ("model.json", "weights.safetensors")
CLASSIFIERS = ("ForSequenceClassification", "ForAudioClassification")  # how Hugging Face names what can be an original
NAMELESS = re.compile(r"LABEL_\d+")  # what it calls outputs that nobody named
SHOWN = 8  # labels in a sentence
CHOSEN = (
    "_target_",
    "bundle",
    "tune",
    "lora",
    "dropout",
)  # of a model on pretrained weights: what the weights themselves do not decide
UNMADE = ("pretrained", "revision", "head")  # of such a model: what a checkpoint of Hugging Face stands in for


@dataclass(frozen=True)
class Checkpoint:
    """A classifier in a folder of the user's.

    kind: speechforget or hugging face. files: what it consists of. model: what `model.json` says, or Hugging Face's `config.json`.
    labels: of its outputs, in their order, by the corpus's names, empty where nobody named them. sample_rate: Hz, None where it does not say.
    """

    folder: Path
    kind: str
    files: tuple[str, ...]
    model: Mapping[str, Any]
    labels: tuple[str, ...]
    sample_rate: int | None

    @property
    def digest(self) -> str:
        """sha256 over names and bytes of the files; where they lie does not count. Raises UserError for one that cannot be read."""
        try:
            stats = [(self.folder / name).stat() for name in self.files]
            return _digest(self.folder, self.files, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read ({error.strerror}): copy the checkpoint again."
            ) from error


@functools.lru_cache(maxsize=64)
def _digest(folder: Path, files: tuple[str, ...], _: tuple[tuple[int, int], ...]) -> str:
    """Once for all runs of a sweep, as long as sizes and times stay."""
    lines = [f"{sha256(folder / name)} {name}" for name in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_checkpoint(config: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint that `original.checkpoint` names; None where the original is trained here.

    Raises UserError for a folder that is none, for a model other than the run's, and for a sample rate other than the corpus's.
    """
    asked = config["original"]["checkpoint"]
    if asked is None:
        return None
    folder = Path(asked).expanduser()
    if not folder.is_dir():
        found = (
            "is a file: give the folder that holds it"
            if folder.exists()
            else "is no folder: a model of the Hub must be downloaded first"
        )
        raise UserError(f"original.checkpoint={asked} {found}.")
    checkpoint = _read_ours(folder, config) if (folder / OURS[0]).exists() else _read_hugging_face(folder, config)
    check_no_pointer(folder / name for name in checkpoint.files)
    rate = config["dataset"]["sample_rate"]
    if checkpoint.sample_rate not in (None, rate):
        raise UserError(
            f"{folder} hears {checkpoint.sample_rate} Hz and the corpus has {rate} Hz: set dataset.sample_rate={checkpoint.sample_rate}."
        )
    return checkpoint


def _read_ours(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    described = _read_json(folder / OURS[0])
    if not (folder / OURS[1]).exists():
        raise UserError(f"{folder} has no {OURS[1]}: copy both files of the model, {' and '.join(OURS)}.")
    try:
        model, labels, rate = (
            dict(described["model"]),
            [str(label) for label in described["labels"]],
            int(described["sample_rate"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / OURS[0]} is not what a run of speechforget writes ({error!r}): copy the model's folder again."
        ) from error
    _check_model(folder, model, config["model"])
    return Checkpoint(
        folder, "speechforget", OURS, described, _renamed(folder, labels, config["original"]["labels"]), rate
    )


def _check_model(folder: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """The run's model names the tables and makes the oracle, so it must be the checkpoint's. Raises UserError that says how."""
    chosen = CHOSEN if "pretrained" in asked and "pretrained" in held else tuple({**asked, **held})
    ours, theirs = (
        {name: canonical(model[name]) for name in chosen if name in model and name != "name"} for model in (asked, held)
    )
    if ours.get("_target_") != theirs.get("_target_"):
        raise UserError(
            f"{folder} holds another model than model={asked['name']}: set model={held.get('name', 'the one that it was made with')}."
        )
    changes = []
    for place, _, value in differences(ours, theirs):
        absent, text = place not in theirs, json.dumps(value, separators=(",", ":"))
        changes.append(
            f"~model.{place}" if absent else f"{'' if place.split('.')[0] in ours else '+'}model.{place}={text}"
        )
    if changes:
        raise UserError(f"{folder} holds a model with other options than this run's: add {' '.join(changes)}.")


def _read_hugging_face(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    if not (folder / "config.json").exists():
        result = (
            "it is a result: give its original, a folder below original/" if (folder / "result.json").exists() else None
        )
        hint = result or instead(folder) or "name another folder"
        raise UserError(
            f"{folder} holds neither a model of speechforget ({' and '.join(OURS)}) nor one of Hugging Face (config.json): {hint}."
        )
    described = _read_json(folder / "config.json")
    kinds = [str(name) for name in described.get("architectures") or []]
    if not any(kind.endswith(CLASSIFIERS) for kind in kinds):
        found = ", ".join(kinds) or "an unnamed model"
        raise UserError(
            f"{folder} holds {found}, which is no classifier: an original must be one of {_or(CLASSIFIERS)}."
        )
    family = described.get("model_type")
    if (config["model"].get("architecture") or {}).get("model_type") != family:
        raise UserError(
            f"{folder} holds a {family}, which model={config['model']['name']} is not: set model= to one for {family}."
        )
    prepared = folder / "preprocessor_config.json"
    rate = _read_json(prepared).get("sampling_rate") if prepared.exists() else None
    files = ("config.json", *([prepared.name] if prepared.exists() else []), *_weights(folder))
    labels = _renamed(folder, labels_of(folder) or [], config["original"]["labels"])
    return Checkpoint(folder, "hugging face", files, described, labels, rate)


def _weights(folder: Path) -> list[str]:
    """The files that transformers would read."""
    for name in (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ):
        if (folder / name).exists():
            parts = (_read_json(folder / name).get("weight_map") or {}) if name.endswith(".json") else {}
            return [name, *sorted({str(part) for part in parts.values()})]
    raise UserError(
        f"{folder} has a config.json and no weights: {instead(folder) or 'copy model.safetensors or pytorch_model.bin beside it'}."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        error: Exception | str = "it holds no object"
    except (OSError, ValueError) as caught:
        error = caught
    raise UserError(f"{path} cannot be read ({error}): copy the checkpoint again.")


def _renamed(folder: Path, names: Sequence[str], asked: Any) -> tuple[str, ...]:
    """The outputs' names by the user's list, or by the user's mapping of some of them."""
    if isinstance(asked, Mapping):
        known = {str(old): str(new) for old, new in asked.items()}
        if foreign := [old for old in known if old not in names]:
            raise UserError(
                f"original.labels names {_list(foreign)}, which {folder} does not know: it knows {_list(names)}."
            )
        found = [known.get(name, name) for name in names]
    elif asked is not None:
        found = [str(name) for name in asked]
        if names and len(found) != len(names):
            raise UserError(
                f"original.labels has {len(found)} names, and {folder} has {len(names)} outputs: name each, in their order."
            )
    else:
        found = list(names)
    if twice := [name for number, name in enumerate(found) if name in found[:number]]:
        raise UserError(f"Two outputs of {folder} would be called '{twice[0]}': mend original.labels.")
    return tuple(found)


def check_labels(checkpoint: Checkpoint, classes: Sequence[str]) -> None:
    """Raises UserError unless the checkpoint tells apart just what the corpus does; in what order does not matter."""
    missing = [name for name in classes if name not in checkpoint.labels]
    extra = [name for name in checkpoint.labels if name not in classes]
    if missing and all(NAMELESS.fullmatch(label) for label in checkpoint.labels):
        raise UserError(
            f"{checkpoint.folder} does not name its outputs: set original.labels to the list of their names, in their order."
        )
    if missing:
        raise UserError(
            f"{checkpoint.folder} does not know {_list(missing)} of the corpus, it knows {_list(checkpoint.labels)}: "
            "take the corpus that it was trained on, or name its outputs with original.labels."
        )
    if extra:
        raise UserError(
            f"{checkpoint.folder} also tells apart {_list(extra)}, which no training utterance of the corpus is, and an oracle could not learn: "
            "add recordings of them, or fine-tune the checkpoint on the corpus's labels first."
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def _or(words: Sequence[str]) -> str:
    return " or ".join(f"*{word}" for word in words)
