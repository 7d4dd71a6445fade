"""Make or find the trained models of a run, several of one architecture and recipe at once.

Code that needs torch is imported only when one of them has to be made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speechforget.config.evaluation import Training, request_of, trainings
from speechforget.config.inputs import code_of, decisive, targets_in, version_of
from speechforget.distributed import group
from speechforget.distributed.protocol import Order
from speechforget.errors import UserError
from speechforget.models.pretrained import fingerprint, placeless
from speechforget.stages.maker import Maker
from speechforget.store import Artefact, Ended, Missing, Wanted, words_for


def make_models(maker: Maker, names: Sequence[str]) -> dict[str, tuple[Wanted, Artefact]]:
    """Return models of `config.evaluation.trainings` by name, and what they were made from.

    Raises the first error, such as Diverged, after all other models are made.
    """
    data, known = maker.data, trainings(maker.config)
    asked = [known[name] for name in names]
    wanted = [
        Wanted(training.stage, maker.name_of(training), _inputs(maker, training), maker.config) for training in asked
    ]

    def build(missing: Sequence[Missing], ended: Ended) -> None:
        orders = {}
        for number, folder, key in missing:
            training, config = asked[number], {**maker.config, "seed": asked[number].seed}
            words, title = words_for(wanted[number].name), names[number]
            orders[number] = Order(training.stage, config, str(folder), key, words, data.key, title, part=training.part)
        if group.ranks_of(maker.config["trainer"]) > 1:
            _perform(orders, ended)
            return
        from speechforget.stages.build import build_models

        build_models(
            {
                number: (order, None if asked[number].whole else request_of(asked[number], maker.request, maker.pool))
                for number, order in orders.items()
            },
            data,
            ended,
        )

    return dict(zip(names, zip(wanted, maker.store.produce_many(wanted, build), strict=True), strict=True))


def _inputs(maker: Maker, training: Training) -> dict[str, Any]:
    config, model = maker.config, maker.config["model"]
    return {
        "version": version_of("train"),
        "split": maker.data.key,
        "without": maker.left_out(training),
        "hearing": maker.hearing,
        "model": decisive("model", placeless(model)),
        "code": code_of(training.stage, *targets_in(model), *targets_in(config["train"])),
        "train": decisive("train", config["train"]),
        **decisive("trainer", config["trainer"]),
        "seed": training.seed,
        **({"pretrained": weights} if (weights := fingerprint(model)) else {}),
    }


def _perform(orders: Mapping[int, Order], ended: Ended) -> None:
    """Let several ranks train each model by itself."""
    for number, order in orders.items():
        try:
            group.perform(order)
        except UserError as error:
            ended(number, error)
        else:
            ended(number, None)
