"""Stage: train several models, at once where that is faster; each is published on its own."""

from __future__ import annotations

from collections.abc import Sequence

from speechforget.config.evaluation import trainings
from speechforget.errors import UserError
from speechforget.stages.forgotten import mark
from speechforget.stages.maker import Maker
from speechforget.store import Artefact, Ended, Later, Missing, Wanted


def train_together(maker: Maker, names: Sequence[str]) -> dict[str, Artefact]:
    """Make models of `config.evaluation.trainings` by name, in this process."""
    asked = [trainings(maker.config)[name] for name in names]
    wanted = [
        Wanted(one.stage, maker.name_of(one), maker.inputs_of(one), {**maker.config, "seed": one.seed}) for one in asked
    ]

    def build(missing: Sequence[Missing], ended: Ended, later: Later) -> None:
        from speechforget.stages.build import build_many
        from speechforget.stages.try_out import try_out

        try_out(maker.config)
        orders, requests = [], []
        for each in missing:
            training, name = asked[each.number], wanted[each.number].name
            orders.append(maker.order(training, name, each.folder, each.key, names[each.number]))
            requests.append(maker.request_of(training))

        def ended_one(place: int, error: UserError | None) -> None:
            if error is None:
                mark(maker, asked[missing[place].number], missing[place].folder)
            ended(missing[place].number, error)

        build_many(orders, maker.data, requests, ended_one, lambda place: later(missing[place].number))

    found = dict(zip(names, maker.store.produce_many(wanted, build), strict=True))
    for one, (name, made) in zip(wanted, found.items(), strict=True):
        maker.trained[made.key], maker.made_from[made.key] = name, (one.stage, one.inputs)
    return found
