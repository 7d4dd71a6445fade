"""Stage: train an ensemble of shards, each slice by slice, and reuse the slices that a request leaves as they were.

SISA: Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie & Papernot, "Machine unlearning", IEEE S&P
2021. Member s starts at weights of its own. Slice r trains it on the slices 0 to r of its shard, with a fresh optimiser
and a schedule of its own, from the weights after slice r - 1. A slice depends on its rows, the rows before it, and
seeds alone. So it is reused if none of these rows changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechforget.data.batches.streams import Sources
from speechforget.data.shards import assign, slice_epochs
from speechforget.distributed import collectives
from speechforget.errors import UserError
from speechforget.models.ensemble import Ensemble
from speechforget.seeding import seed_from
from speechforget.stages.split import Data
from speechforget.stages.train import Supervised, description, new_classifier
from speechforget.store import check_held, write_json
from speechforget.store.files import read_json
from speechforget.tracking.curves import Curve, read_curve
from speechforget.training.checkpoint import remove_checkpoint
from speechforget.training.cost_meter import Cost
from speechforget.training.device import compiled, start_process
from speechforget.training.loop import FitSettings, finish, fit

RECORD, CELLS, SLICES = "sisa.json", "shards.npy", "slices"
logger = logging.getLogger(__name__)

WEIGHTS, SPENT = "weights.safetensors", "cost.json"
SHOWN = 5  # classes in a warning


@dataclass(frozen=True)
class Shards:
    """Train the members of an ensemble.

    sources: with the rows to train on as `train`. cells: shard and slice of each row of the corpus (`data.shards`).
    parts: model, labels and sample_rate of a member. recipe: of conf/train, with `sisa`. seed: of weights and batches.
    """

    settings: FitSettings
    sources: Sources
    cells: NDArray[np.int64]
    parts: Mapping[str, Any]
    recipe: Mapping[str, Any]
    cost: Cost
    seed: int

    def train(self, before: Path | None = None) -> Ensemble:
        """Train what cannot be reused, write the record of all slices, and return the ensemble.

        before: the folder of an ensemble of the same recipe, whose slices are reused. Every rank calls this.
        Raises UserError if no utterance is left to train on.
        """
        if collectives.rank() == 0:
            np.save(self.settings.folder / CELLS, self.cells)
        known = None if before is None else json.loads((before / RECORD).read_text(encoding="utf-8"))
        members: dict[int, Any] = {}
        record: dict[str, Any] = {"seed": self.seed, "epochs": self.epochs, "shards": []}
        for shard in range(self.recipe["sisa"]["shards"]):
            told = self._digests(shard)
            same = 0 if known is None else _common(told, known["shards"][shard]["digests"])
            trained = [number for number in range(same, len(told)) if len(self._rows(shard, number))]
            record["shards"].append({"digests": told, "utterances": self._counts(shard), "trained": trained})
            if len(self._rows(shard, len(told) - 1)):
                members[shard] = self._member(shard, same, before)
        if not members:
            raise UserError("No utterance is left to train on: choose a smaller request.")
        ensemble = Ensemble(members)
        self._finish(record, list(members))
        return ensemble

    @property
    def epochs(self) -> list[int]:
        """Return the epochs of each slice."""
        return slice_epochs(self.recipe["epochs"], self.recipe["sisa"]["slices"])

    def _rows(self, shard: int, number: int) -> NDArray[np.int64]:
        """Return the rows of the slices 0 to `number` of a shard, in the order of the table."""
        rows = np.sort(self.sources.rows["train"])
        return rows[(self.cells[rows, 0] == shard) & (self.cells[rows, 1] <= number)]

    def _counts(self, shard: int) -> list[int]:
        ends = [len(self._rows(shard, number)) for number in range(len(self.epochs))]
        return np.diff(ends, prepend=0).tolist()

    def _digests(self, shard: int) -> list[str]:
        """Return a hash of the rows that each slice of a shard trains on."""
        return [
            hashlib.sha256(self._rows(shard, number).astype("<i8").tobytes()).hexdigest()
            for number in range(len(self.epochs))
        ]

    def _member(self, shard: int, same: int, before: Path | None) -> nn.Module:
        """Train a member from its first slice that changed. same: slices that did not."""
        labels, rate = self.parts["labels"], self.parts["sample_rate"]
        member = new_classifier(self.parts["model"], len(labels), rate, seed_from(self.seed, "shard", shard))
        for number in range(len(self.epochs)):
            if not len(self._rows(shard, number)):
                continue
            folder = self._folder(shard, number)
            if number < same:
                assert before is not None
                _put(member, _kept(before, shard, number))
                if collectives.rank() == 0:
                    shutil.copyfile(_found(before, shard, number), folder / WEIGHTS)
                continue
            if collectives.agreed(collectives.rank() == 0 and (folder / WEIGHTS).exists()):
                _put(member, load_file(folder / WEIGHTS))
                remove_checkpoint(folder)  # of a run that was killed just before it did so
            else:
                self._train(member, shard, number, folder)
            self.cost.add(collectives.agreed(read_json(folder / SPENT)))
        return member.eval()

    def _train(self, member: nn.Module, shard: int, number: int, folder: Path) -> None:
        """Train a member on the slices of its shard up to `number`, and write its weights."""
        check_held(self.settings.folder)
        words = f"{self.settings.description}, shard {shard + 1}, slice {number + 1}"
        seed, epochs = seed_from(self.seed, "slice", shard, number), self.epochs[number]
        settings = replace(self.settings, folder=folder, seed=seed, listener=None, description=words)
        warmup = self.recipe["warmup"] * epochs / self.recipe["epochs"]
        recipe = {**self.recipe, "epochs": epochs, "warmup": warmup}
        collectives.share_state(member)
        compiled(member, settings.trainer)
        cost, sources = Cost(), self.sources.with_rows(train=self._rows(shard, number))
        module = Supervised(cost.watch(member), sources, recipe, settings, cost)
        with self.cost.paused(), cost:
            fit(module, settings, epochs * module.steps_per_epoch)
        cost.merge()
        if collectives.rank() == 0:
            write_json(folder / SPENT, cost.record())
            weights = {name: value.detach().cpu().contiguous() for name, value in member.state_dict().items()}
            save_file(weights, folder / f"{WEIGHTS}.partial")
            (folder / f"{WEIGHTS}.partial").replace(folder / WEIGHTS)
            remove_checkpoint(folder)

    def _folder(self, shard: int, number: int) -> Path:
        folder = slice_folder(self.settings.folder, shard, number)
        if collectives.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _finish(self, record: Mapping[str, Any], members: list[int]) -> None:
        """Write the record and one learning curve of all slices that were trained; rank 0 does it."""
        if collectives.rank() != 0:
            return
        rows: list[dict[str, Any]] = []
        for shard, told in enumerate(record["shards"]):
            for number in told["trained"]:
                before = rows[-1]["step"] if rows else 0
                for row in read_curve(slice_folder(self.settings.folder, shard, number)):
                    place = {"epoch": len(rows), "step": before + row["step"], "shard": shard, "slice": number}
                    rows.append({**row, **place})
        Curve(self.settings.folder, self.settings.listener).restore(rows)
        write_json(self.settings.folder / RECORD, {**record, "members": members})


def train_ensemble(settings: FitSettings, sources: Sources, data: Data, config: Mapping[str, Any]) -> None:
    """Train an ensemble from scratch on the `train` rows of `sources`; write model and cost to the folder."""
    start_process(settings.trainer)
    cells = assign(data.table, config["train"]["sisa"])
    _warn_of_gaps(data, sources.rows["train"], cells)
    parts = description(config["model"], data.classes, config["dataset"])
    cost = Cost()
    with cost:
        ensemble = Shards(settings, sources, cells, parts, config["train"], cost, settings.seed).train()
    finish(settings, ensemble, parts, cost)


def _warn_of_gaps(data: Data, rows: NDArray[np.int64], cells: NDArray[np.int64]) -> None:
    """Warn of classes that a shard never hears, although others do."""
    heard = set(data.taught[rows].tolist())
    for shard in np.unique(cells[rows, 0]):
        lacking = heard - set(data.taught[rows[cells[rows, 0] == shard]].tolist())
        if lacking and collectives.rank() == 0:
            names = ", ".join(data.classes[number] for number in sorted(lacking)[:SHOWN])
            logger.warning(
                "Shard %d has no utterance of %d of %d classes (%s): fewer shards have more of each.",
                shard + 1,
                len(lacking),
                len(heard),
                names + (", ..." if len(lacking) > SHOWN else ""),
            )


def slice_folder(folder: Path, shard: int, number: int) -> Path:
    """Return where the weights after a slice are."""
    return folder / SLICES / f"{shard}-{number}"


def _common(told: list[str], known: list[str]) -> int:
    """Count the first entries that agree."""
    differ = (number for number, pair in enumerate(zip(told, known, strict=True)) if pair[0] != pair[1])
    return next(differ, len(told))


def _found(folder: Path, shard: int, number: int) -> Path:
    path = slice_folder(folder, shard, number) / WEIGHTS
    if not path.exists():
        raise UserError(f"{folder} lacks the weights after slice {number} of shard {shard}: train the original again.")
    return path


def _kept(folder: Path, shard: int, number: int) -> dict[str, Tensor]:
    return dict(load_file(_found(folder, shard, number)))


def _put(member: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights in their own precision: a float32 model would round float64."""
    if any(value.dtype == torch.float64 for value in weights.values()):
        member.double()
    member.load_state_dict(weights)
