"""Describe a checkpoint of the user that serves as the original (`original.checkpoint`).

Reads JSON only, so a plan and a run that finds every artefact need no torch. `stages.import_checkpoint` reads the
weights.
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

from speechforget.data.tables.transcript import TEXT
from speechforget.data.transcripts import BLANK
from speechforget.errors import UserError
from speechforget.models.lookalikes import check_no_pointer, instead
from speechforget.models.pretrained import labels_of
from speechforget.models.vocabulary import FILE as VOCABULARY
from speechforget.models.vocabulary import outputs_of
from speechforget.store import canonical, differences
from speechforget.store.manifest import sha256

OURS = ("model.json", "weights.safetensors")
CLASSIFIERS = ("ForSequenceClassification", "ForAudioClassification")  # ends of the names of Hugging Face classifiers
CTC = "ForCTC"  # end of the names of Hugging Face's models of transcripts
NAMELESS = re.compile(r"LABEL_\d+")  # Hugging Face's names of outputs without names
SHOWN = 8  # labels in a sentence
# Options of a model on pretrained weights that the weights themselves do not decide.
CHOSEN = ("_target_", "bundle", "tune", "lora", "dropout")
UNMADE = ("pretrained", "revision", "head")  # options of such a model that a checkpoint of Hugging Face replaces


@dataclass(frozen=True)
class Checkpoint:
    """Describe a classifier in the user's folder.

    kind: speechforget or hugging face. files: the names of its files. model: the content of `model.json`, or of Hugging
    Face's `config.json`. labels: the corpus's names of its outputs, in their order; empty where the checkpoint has no
    names. sample_rate: Hz; None where the checkpoint does not state it.
    """

    folder: Path
    kind: str
    files: tuple[str, ...]
    model: Mapping[str, Any]
    labels: tuple[str, ...]
    sample_rate: int | None

    @property
    def digest(self) -> str:
        """Hash names and bytes of the files, but not their folder. Raises UserError for a file that cannot be read."""
        try:
            stats = [(self.folder / name).stat() for name in self.files]
            return _digest(self.folder, self.files, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read ({error.strerror}): copy the checkpoint again."
            ) from error


@functools.lru_cache(maxsize=64)
def _digest(folder: Path, files: tuple[str, ...], _: tuple[tuple[int, int], ...]) -> str:
    """Hash once for all runs of a sweep, while sizes and modification times stay the same."""
    lines = [f"{sha256(folder / name)} {name}" for name in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_checkpoint(config: Mapping[str, Any]) -> Checkpoint | None:
    """Read the checkpoint that `original.checkpoint` names; None where the original is trained here.

    Raises UserError for a missing folder, a model other than the run's, or a sample rate other than the corpus's.
    """
    asked = config["original"]["checkpoint"]
    if asked is None:
        return None
    folder = Path(asked).expanduser()
    if not folder.is_dir():
        found = (
            "is a file: give the folder that holds it"
            if folder.exists()
            else "does not exist: a model of the Hub must be downloaded first"
        )
        raise UserError(f"original.checkpoint={asked} {found}.")
    checkpoint = _read_ours(folder, config) if (folder / OURS[0]).exists() else _read_hugging_face(folder, config)
    check_no_pointer(folder / name for name in checkpoint.files)
    rate = config["dataset"]["sample_rate"]
    if checkpoint.sample_rate not in (None, rate):
        raise UserError(
            f"{folder} needs a sample rate of {checkpoint.sample_rate} Hz and the corpus has {rate} Hz: "
            f"set dataset.sample_rate={checkpoint.sample_rate}."
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
    check_model(folder, model, config["model"])
    return Checkpoint(
        folder, "speechforget", OURS, described, _renamed(folder, labels, config["original"]["labels"]), rate
    )


def check_model(folder: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Check that the run's model is the checkpoint's: it names the tables and makes the oracle.

    Raises UserError with the overrides that make it so.
    """
    chosen = CHOSEN if "pretrained" in asked and "pretrained" in held else tuple({**asked, **held})
    ours, theirs = (
        {name: canonical(model[name]) for name in chosen if name in model and name not in ("name", "labels")}
        for model in (asked, held)
    )
    if ours.get("_target_") != theirs.get("_target_"):
        raise UserError(
            f"{folder} holds another model than model={asked['name']}: "
            f"set model={held.get('name', 'the one that it was made with')}."
        )
    changes = []
    for key, _, value in differences(ours, theirs):
        absent, text = key not in theirs, json.dumps(value, separators=(",", ":"))
        changes.append(f"~model.{key}" if absent else f"{'' if key.split('.')[0] in ours else '+'}model.{key}={text}")
    if changes:
        raise UserError(f"{folder} holds a model with other options than this run's: add {' '.join(changes)}.")


def _read_hugging_face(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    if not (folder / "config.json").exists():
        result = (
            "it is a result: give its original, a folder below original/" if (folder / "result.json").exists() else None
        )
        hint = result or instead(folder) or "name another folder"
        raise UserError(
            f"{folder} holds neither a model of speechforget ({' and '.join(OURS)}) "
            f"nor one of Hugging Face (config.json): {hint}."
        )
    described = _read_json(folder / "config.json")
    kinds = [str(name) for name in described.get("architectures") or []]
    text = config["dataset"].get("label") == TEXT
    fitting = (CTC,) if text else CLASSIFIERS
    if not any(kind.endswith(fitting) for kind in kinds):
        found, what = ", ".join(kinds) or "an unnamed model", "model of transcripts" if text else "classifier"
        raise UserError(f"{folder} holds {found}, which is not a {what}: an original must be one of {_or(fitting)}.")
    family = described.get("model_type")
    if (config["model"].get("architecture") or {}).get("model_type") != family:
        raise UserError(
            f"{folder} holds a {family}, but model={config['model']['name']} is not: set model= to one for {family}."
        )
    prepared = folder / "preprocessor_config.json"
    rate = _read_json(prepared).get("sampling_rate") if prepared.exists() else None
    names = outputs_of(folder, described) if text else labels_of(folder) or []
    beside = [path for path in (prepared, folder / VOCABULARY) if path.exists()]
    files = ("config.json", *(path.name for path in beside), *_weights(folder))
    labels = _renamed(folder, names, config["original"]["labels"])
    return Checkpoint(folder, "hugging face", files, described, labels, rate)


def _weights(folder: Path) -> list[str]:
    """List the files of weights that transformers would read."""
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
        f"{folder} has a config.json and no weights: "
        f"{instead(folder) or 'copy model.safetensors or pytorch_model.bin beside it'}."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        error: Exception | str = "it does not hold an object"
    except (OSError, ValueError) as caught:
        error = caught
    raise UserError(f"{path} cannot be read ({error}): copy the checkpoint again.")


def _renamed(folder: Path, names: Sequence[str], asked: Any) -> tuple[str, ...]:
    """Rename the outputs by the user's list, or by the user's mapping of some names."""
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
                f"original.labels has {len(found)} names, and {folder} has {len(names)} outputs: "
                "name each, in their order."
            )
    else:
        found = list(names)
    if twice := [name for number, name in enumerate(found) if name in found[:number]]:
        raise UserError(f"original.labels gives two outputs of {folder} the name '{twice[0]}': make the names unique.")
    return tuple(found)


def check_labels(checkpoint: Checkpoint, classes: Sequence[str]) -> None:
    """Check that the checkpoint has exactly the corpus's labels, in any order. Raises UserError.

    Outputs for letters that the corpus lacks are allowed: the original gets none of them.
    """
    missing = [name for name in classes if name not in checkpoint.labels]
    extra = [name for name in checkpoint.labels if name not in classes]
    if missing and all(NAMELESS.fullmatch(label) for label in checkpoint.labels):
        raise UserError(
            f"{checkpoint.folder} does not name its outputs: "
            "set original.labels to the list of their names, in their order."
        )
    if missing:
        raise UserError(
            f"{checkpoint.folder} does not know {_list(missing)} of the corpus, it knows {_list(checkpoint.labels)}: "
            "use the corpus that it was trained on, or name its outputs with original.labels."
        )
    if extra and BLANK not in classes:
        raise UserError(
            f"{checkpoint.folder} also has outputs for {_list(extra)}. No training utterance of the corpus has these "
            "labels, so an oracle could not learn them: "
            "add recordings of them, or fine-tune the checkpoint on the corpus's labels first."
        )


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def _or(words: Sequence[str]) -> str:
    return " or ".join(f"*{word}" for word in words)
