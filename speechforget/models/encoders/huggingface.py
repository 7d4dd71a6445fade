"""Build audio classifiers of the transformers library from numbers, or read them whole from a folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

# The library imports torchaudio wherever that is installed: this import makes sure that it loads.
from speechforget._torchaudio import torchaudio  # noqa: F401
from speechforget.errors import UserError, nearest

# Fields of a config that do not describe the architecture, or that would carry this machine's paths to another one.
NOT_ARCHITECTURE = {
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
    "id2label",
    "label2id",
    "problem_type",
}


def package(name: str) -> Any:
    """Import a module of an optional package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"The model needs the package {name.split('.', maxsplit=1)[0]}: "
            'install it with pip install -e ".[pretrained]".'
        ) from None


def build_library_model(
    architecture: Mapping[str, Any], pretrained: str | None, changes: Mapping[str, Any], keep: int | None
) -> Any:
    """Build a `...ForSequenceClassification` or `...ForAudioClassification` in float32, with a checkpoint's head.

    architecture: `model_type` and the numbers of the library's config, for random weights. pretrained: a folder, which
    has its own config. changes: numbers that are set in both cases. keep: the number of classes that the checkpoint's
    head must have; None: the head is not used. Raises UserError.
    """
    if pretrained is None:
        if keep is not None:
            raise UserError(
                "model.head=keep needs a checkpoint with a head: set model.pretrained to its folder, or model.head=new."
            )
        with _quiet() as transformers:
            config = _config(transformers, architecture, changes)
            return transformers.AutoModelForAudioClassification.from_config(config, dtype=torch.float32)
    return _read(pretrained, str(architecture["model_type"]), changes, keep)


def _config(transformers: Any, architecture: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    numbers = dict(architecture)
    config = transformers.AutoConfig.for_model(numbers.pop("model_type"))
    known = config.to_dict()
    for name in numbers:
        if name not in known:  # the library accepts any name, typos included
            raise UserError(f"There is no model.architecture.{name} in a {config.model_type}: {nearest(name, known)}.")
    return type(config)(**{**numbers, **changes})


def _read(folder: str, family: str, changes: Mapping[str, Any], keep: int | None) -> Any:
    # The library draws weights that a checkpoint lacks, such as an unused head: not from the global generator.
    with _quiet() as transformers, torch.random.fork_rng(devices=[]):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            if config.model_type != family:
                raise UserError(
                    f"model.pretrained={folder} holds a {config.model_type}, not a {family}: "
                    f"set model= to one for {config.model_type}."
                )
            for name, value in changes.items():
                setattr(config, name, value)
            model, found = transformers.AutoModelForAudioClassification.from_pretrained(
                folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        except UserError:
            raise
        except Exception as error:  # dozens of types: of the library, of its file formats, of the system
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"model.pretrained={folder} cannot be read as a {family} ({first.rstrip('.')}): "
                "download or save it again."
            ) from None
    missing = sorted(name for name in found["missing_keys"] if name.startswith(f"{encoder_name(model)}."))
    if missing:
        raise UserError(
            f"model.pretrained={folder} lacks weights of the encoder ({missing[0]}, {len(missing)} in all): "
            "download or save it again."
        )
    if keep is not None:
        _check_head(folder, found["missing_keys"], int(config.num_labels), keep)
    return model


def _check_head(folder: str, missing: Any, held: int, wanted: int) -> None:
    if missing:
        raise UserError(
            f"model.pretrained={folder} has no classification head for model.head=keep: set model.head=new."
        )
    if held != wanted:
        raise UserError(
            f"The head of model.pretrained={folder} has {held} classes, and the dataset has {wanted}: "
            "set model.head=new."
        )


def encoder_name(model: nn.Module) -> str:
    """Name the attribute of a classification model of the library that holds its encoder."""
    return "encoder" if hasattr(model, "encoder") else str(model.base_model_prefix)


def architecture_of(config: Any) -> dict[str, Any]:
    """Give the numbers from which a config of the library can be built again."""
    known = type(config)().to_dict().keys() - NOT_ARCHITECTURE
    return {name: value for name, value in config.to_dict().items() if name in known}


def preprocessing_of(folder: str) -> dict[str, Any]:
    """Read a checkpoint's settings of its feature extractor; empty where it has none."""
    alone, processor = (Path(folder) / name for name in ("preprocessor_config.json", "processor_config.json"))
    if alone.exists():
        return dict(json.loads(alone.read_text(encoding="utf-8")))
    return (
        dict(json.loads(processor.read_text(encoding="utf-8")).get("feature_extractor", {}))
        if processor.exists()
        else {}
    )


@contextmanager
def _quiet() -> Iterator[Any]:
    """Silence the library's progress bars and its reports of what it read; `_read` checks that itself."""
    transformers = package("transformers")
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
