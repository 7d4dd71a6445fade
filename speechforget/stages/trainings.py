"""Make or find several trained models: originals and oracles that differ in training rows and seeds.

They are ordinary artefacts, trained several at a time where that is faster (`trainer.stacked`). Code that needs torch
is imported only when one of them has to be made.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechforget.config.inputs import HEARING, code_of, decisive, targets_in
from speechforget.distributed import group
from speechforget.errors import UserError
from speechforget.models.pretrained import fingerprint, placeless
from speechforget.stages.split import Data
from speechforget.store import Artefact, Ended, Missing, Producer, Wanted, words_for


@dataclass(frozen=True)
class Training:
    """A model to train. stage: original or oracle. name: readable words of its folder.

    without: the hash of the utterances that the split has and `rows` leaves out; None if `rows` are all training rows.
    rows: training rows in the corpus table. seed: of the training. title: for the progress bar.
    """

    stage: str
    name: str
    without: str | None
    rows: NDArray[np.int64]
    seed: int
    title: str


def inputs_of(config: Mapping[str, Any], split: str, stage: str, without: str | None, seed: int) -> dict[str, Any]:
    """Return the inputs of the key of a trained model. split: key of the split; `dataset.seconds` is a number."""
    model, weights = config["model"], fingerprint(config["model"])
    return {
        "version": version_of("train"),
        "split": split,
        "without": without,
        "hearing": {name: config["dataset"][name] for name in HEARING},
        "model": decisive("model", placeless(model)),
        "code": code_of(stage, *targets_in(model), *targets_in(config["train"])),
        "train": decisive("train", config["train"]),
        **decisive("trainer", config["trainer"]),
        "seed": seed,
        **({"pretrained": weights} if weights else {}),
    }


def make_trainings(
    store: Producer, config: Mapping[str, Any], data: Data, trainings: Sequence[Training]
) -> list[Artefact]:
    """Return the models in the order of `trainings`; train missing ones of one architecture and recipe together.

    Raises the first error, such as Diverged, after all other models are trained.
    """
    configs = [{**config, "seed": training.seed} for training in trainings]
    wanted = [
        Wanted(
            training.stage,
            training.name,
            inputs_of(config, data.key, training.stage, training.without, training.seed),
            own,
        )
        for training, own in zip(trainings, configs, strict=True)
    ]

    def build(missing: Sequence[Missing], ended: Ended) -> None:
        from speechforget.distributed.protocol import Order

        orders = {}
        for number, folder, key in missing:
            training = trainings[number]
            orders[number] = Order(
                training.stage,
                configs[number],
                str(folder),
                key,
                words_for(training.name),
                data.key,
                training.title,
                rows=training.rows.tolist(),
            )
        if group.ranks_of(config["trainer"]) == 1:
            from speechforget.stages.build import build_many

            build_many(orders, data, ended)
            return
        for number, order in orders.items():
            try:
                group.perform(order)
            except UserError as error:
                ended(number, error)
            else:
                ended(number, None)

    return store.produce_many(wanted, build)


@functools.cache
def version_of(stage: str) -> int:
    """Return `VERSION` of the module of a stage, read without importing it, which would import torch."""
    path = Path(__file__).with_name(f"{stage}.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "VERSION"
            and isinstance(node.value, ast.Constant)
        ):
            return int(node.value.value)  # type: ignore[arg-type]
    raise AssertionError(f"{path} has no VERSION")
