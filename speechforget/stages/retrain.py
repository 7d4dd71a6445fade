"""Train again on retain by the recipe of the original, for methods that reuse a part of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from speechforget.data.batches.streams import Sources
from speechforget.distributed import collectives
from speechforget.stages.sisa import CELLS, RECORD, Shards
from speechforget.stages.train import Supervised
from speechforget.training.checkpoint import STATE
from speechforget.training.cost_meter import Cost
from speechforget.training.device import compiled
from speechforget.training.loop import FitSettings, fit


class Rewound(Supervised):
    """Continue a training after `done` epochs of its recipe, on other rows and for another number of epochs.

    The schedule of the recipe goes on from there and ends with the last epoch. state: of the optimiser at that epoch;
    None for a fresh one.
    """

    state: Mapping[str, Any] | None = None

    def configure_optimizers(self) -> Any:
        """Return the optimiser of the recipe with the state and the learning rates of that epoch."""
        found = super().configure_optimizers()
        if self.state is not None:
            optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
            optimizer.load_state_dict(self.state)
            for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
                group["lr"] = rate
        return found


@dataclass(frozen=True)
class Retraining:
    """Offer what `methods.base.method.Retraining` promises to a method.

    sources: with the rows of retain that the method may use as `train`. recipe: of conf/train.
    start: the folder of the model that the method starts from.
    """

    settings: FitSettings
    sources: Sources
    recipe: Mapping[str, Any]
    start: Path
    cost: Cost

    def rewind(self, student: nn.Module, epochs_back: int, epochs: int | None) -> None:
        """Train the student, a kept epoch of the original, to the end of the recipe's schedule."""
        done = int(self.recipe["epochs"]) - epochs_back
        parts = student, self.sources, self.recipe, self.settings, self.cost
        module = Rewound(*parts, epochs or epochs_back)
        module.done, module.pace, module.state = done, epochs_back / module.epochs, _optimizer_state(self.start, done)
        collectives.share_state(student)
        compiled(student, self.settings.trainer)
        fit(module, self.settings, module.epochs * module.steps_per_epoch)
        student.eval()

    def shards(self, student: nn.Module) -> None:
        """Train the members of the student again from the first slice that held an utterance of the request."""
        record, parts = (json.loads((self.start / name).read_text(encoding="utf-8")) for name in (RECORD, "model.json"))
        cells = np.load(self.start / CELLS)
        parts["model"] = {name: value for name, value in parts["model"].items() if name != "members"}
        shards = Shards(self.settings, self.sources, cells, parts, self.recipe, self.cost, record["seed"])
        student.members = shards.train(self.start).members


def _optimizer_state(folder: Path, done: int) -> Mapping[str, Any] | None:
    """Return the state of the optimiser at a kept epoch; None before the first one."""
    if done == 0:
        return None
    kept = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    state: Mapping[str, Any] = kept["optimizer_states"][0]
    return state
