"""Stage: attack all models of a run, compare them, and write the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from speechforget.config.attribute import removed
from speechforget.config.evaluation import needs_untrained
from speechforget.config.inputs import code_of, metrics_in
from speechforget.config.oracle import delivered_by
from speechforget.data.requests.select import save
from speechforget.models.checkpoint import Checkpoint
from speechforget.stages import record
from speechforget.stages.attack_models import attack
from speechforget.stages.maker import Maker
from speechforget.stages.untrained import untrained
from speechforget.store import Artefact, verified, words_for


class Comparing(Maker, Protocol):
    """What a comparison needs of a run beside its artefacts."""

    @property
    def name(self) -> str:
        """Return the name of the result."""
        ...

    @property
    def untried(self) -> str | None:
        """Say why the numbers of the method may not suit the request."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the columns of the corpus whose values are compared."""
        ...

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Return the user's checkpoint of the original, if there is one."""
        ...


def make_result(
    run: Comparing, models: Mapping[str, Artefact], scores: Mapping[str, Artefact], audited: Mapping[str, Artefact]
) -> Artefact:
    """Attack all models, and compare their scores and what the attacks measured; add what an audit found."""
    drawn = untrained(run) if needs_untrained(run.config) else None
    paths = metrics_in(run.config["evaluation"])
    attacks = list(run.config["evaluation"]["attacks"])
    attacked = {name: [attack(run, model, options) for options in attacks] for name, model in models.items()}
    inputs = {
        "version": record.VERSION,
        "scores": {name: artefact.key for name, artefact in scores.items()},
        "models": {name: artefact.key for name, artefact in models.items()},
        "attacks": {name: [artefact.key for artefact in made] for name, made in attacked.items()},
        "request": run.forgotten_ids,
        "nonmembers": run.nonmember_ids,
        "metrics": paths,
        "objective": run.config["evaluation"]["objective"],
        "code": code_of("result", *paths),
        "seed": run.seed,
        **({"deliver": deliver} if (deliver := delivered_by(run.config)) != "unlearned" else {}),
        **{name: artefact.key for name, artefact in audited.items()},
        **({"untrained": drawn.key} if drawn else {}),
        **({"groups": list(run.groups)} if run.groups else {}),
        **removed(run.config),
    }

    def build(folder: Path, key: str) -> None:
        from speechforget.stages.compare import write_comparison
        from speechforget.stages.tracked import tracked
        from speechforget.tracking.loggers import track_artefact

        save(run.request, run.data.table, folder)
        with track_artefact(run.config, "result", folder, key, words_for(run.name)) as tracker:
            told = record.describe_result(run.config, run.data, run.request, models, run.checkpoint, run.untried)
            for name, artefact in audited.items():
                told[name] = json.loads(verified(artefact.folder, f"{name}.json").read_text(encoding="utf-8"))
            told["identity"] = record.identity(run.config, run.data, run.made_from, inputs)
            measured = run.data, run.request, models, scores, attacked, drawn, run.groups
            result, tables = write_comparison(folder, run.config, told, *measured)
            if tracker is not None:
                shown = run.config, run.data, run.request, models, result, tables
                tracker.compare(lambda: tracked(folder, *shown))

    return run.store.produce("result", run.name, inputs, build)
