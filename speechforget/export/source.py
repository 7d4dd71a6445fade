"""Read the result that is exported: its record, its config, and the model that leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from speechforget.errors import UserError
from speechforget.models.delivered import Model, model_of
from speechforget.models.folder import load_classifier
from speechforget.report.record import read_result
from speechforget.store import read_done, verified
from speechforget.store.graph import Node, read_graph


class Unsupported(Exception):  # noqa: N818
    """A format cannot be made from this model, or not here; the text is the reason, without a full stop."""


@dataclass(frozen=True)
class Source:
    """Hold a result and the model of it that is exported. record: the content of result.json."""

    result: Path
    record: dict[str, Any]
    model: Model

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the config of the run, with the output folder and the cache where they are now."""
        found: Any = OmegaConf.to_container(OmegaConf.load(verified(self.result, "config.yaml")))
        inside = Path(found["cache"]) == Path(found["output"]) / "cache"
        return {**found, "output": str(self.output), "cache": str(self.output / "cache") if inside else found["cache"]}

    @property
    def output(self) -> Path:
        """Return the output folder that the model lies in."""
        return self.model.folder.parent.parent

    @cached_property
    def nodes(self) -> list[Node]:
        """Return all artefacts of the output folder."""
        return read_graph(self.output)

    @cached_property
    def key(self) -> str:
        """Return the key of the result."""
        return key_of_folder(self.result)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Return what the result was made from: keys of models, of scores, and of the request."""
        return dict(json.loads(verified(self.result, "inputs.json").read_text(encoding="utf-8"))["inputs"])

    @cached_property
    def classifier(self) -> nn.Module:
        """Return the model itself, in evaluation mode on the CPU."""
        for name in ("weights.safetensors", "model.json"):
            verified(self.model.folder, name)
        return load_classifier(self.model.folder)[0].requires_grad_(False)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Return what the model's `model.json` says: model, labels, sample_rate, seconds."""
        return dict(json.loads(verified(self.model.folder, "model.json").read_text(encoding="utf-8")))

    @property
    def width(self) -> int:
        """Return the number of samples that the model hears at once."""
        return round(self.description["seconds"] * self.description["sample_rate"])


def key_of_folder(folder: Path) -> str:
    """Return the key of a finished artefact. Raises UserError for an unfinished one."""
    record = read_done(folder)
    if record is None:
        raise UserError(f"{folder} is not finished: run the command that builds it again.")
    return str(record["key"])


def read_source(result: Path, model: str | None = None) -> Source:
    """Read a result folder and find its model; None: the one that it delivers. Raises UserError."""
    if not (result / "result.json").exists():
        raise UserError(f"{result} is not a result: give the result folder that a run prints at its end.")
    return Source(result, read_result(result), model_of(result, model))
