"""Stage: find or make what an attack measures in a model. Needs no torch where it is found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.config.attribute import removed
from speechforget.config.inputs import code_of, targets_in, version_of
from speechforget.stages.maker import Maker
from speechforget.store import Artefact


def attack(maker: Maker, model: Artefact, options: Mapping[str, Any]) -> Artefact:
    """Run the attack that `options` describes on a model, in this process, however many devices there are."""
    scores = maker.score("model", model)
    inputs = {
        "version": version_of("attack"),
        "model": model.key,
        "scores": scores.key,
        "split": maker.data.key,
        "request": maker.forgotten_ids,
        "forgotten": list(maker.request.forgotten),
        "nonmembers": maker.nonmember_ids,
        "hearing": maker.hearing,
        "attack": options,
        "code": code_of("attack", *targets_in(options)),
        "seed": maker.seed,
        **removed(maker.config),
    }

    def build(folder: Path, _: str) -> None:
        from speechforget.stages.attack import run_attack

        run_attack(folder, model.folder, scores.folder, maker.config, maker.data, maker.request, options)

    return maker.produce("attack", f"{str(options['_target_']).rpartition('.')[2]}-{model.name}", inputs, build)
