"""Stage: score the request with models of random weights, which metrics such as ZRF compare with.

The weights depend on no seed of a run, so all seeds and methods share the models. They are not kept: only their answers
are. Needs no torch where these are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from speechforget.config.inputs import code_of, decisive, targets_in
from speechforget.data.requests.select import Request
from speechforget.models.pretrained import placeless
from speechforget.stages.maker import Maker
from speechforget.stages.score_files import column
from speechforget.stages.split import Data
from speechforget.store import Artefact, write_json

VERSION = 1  # raise it whenever the same inputs give other scores
MODELS = 5  # the paper has one; its number moves with the weights that are drawn


def untrained(maker: Maker) -> Artefact:
    """Make or find the logits of the forgotten utterances by models of random weights, in this process."""
    model = {name: value for name, value in placeless(maker.config["model"]).items() if name != "pretrained"}
    inputs = {
        "version": VERSION,
        "split": maker.data.key,
        "request": maker.forgotten_ids,
        "hearing": maker.hearing,
        "windows": maker.config["dataset"]["windows"],
        "model": decisive("model", model),
        "code": code_of("untrained", *targets_in(model)),
    }

    def build(folder: Path, _: str) -> None:
        write_logits(folder, maker.config, maker.data, maker.request)

    return maker.produce("untrained", "-".join([*maker.words, maker.request.name]), inputs, build)


def write_logits(folder: Path, config: Mapping[str, Any], data: Data, request: Request) -> None:
    """Write logits (models, utterances, classes), float32, of the forgotten utterances in ascending order of rows.

    Raises UserError if an output is not finite.
    """
    import torch

    from speechforget.stages.score import outputs
    from speechforget.stages.sources import make_sources
    from speechforget.training.cost_meter import Cost
    from speechforget.training.device import start_process
    from speechforget.training.finite import Watch, check_outputs

    device, cost = start_process({**config["trainer"], "precision": "32-true"}), Cost()
    sources = make_sources(config, data, request, device, taught=False)
    rows, found = sources.rows["forget"], []
    with cost, Watch("A model of random weights", "Choose another model.").watched("while it was scored"):
        for number in range(MODELS):
            classifier = cost.watch(_drawn(config, len(data.classes), number).to(device))
            logits = np.empty((len(rows), len(data.classes)), dtype=np.float32)
            with torch.inference_mode():
                for part, output in outputs(classifier, sources, device, "forget"):
                    logits[np.searchsorted(rows, part)] = output.logits.cpu().numpy()
            check_outputs(int((~np.isfinite(logits).all(axis=1)).sum()), len(rows), "outputs")
            found.append(logits)
    np.save(column(folder, "logits"), np.stack(found))
    write_json(folder / "cost.json", cost.record())


def _drawn(config: Mapping[str, Any], classes: int, number: int) -> Any:
    """Build the model of the config with random weights in place of pretrained ones, in evaluation mode."""
    import torch

    from speechforget.models.folder import build_classifier
    from speechforget.seeding import seed_from

    options = dict(config["model"])
    options |= {name: new for name, new in (("pretrained", None), ("head", "new")) if name in options}
    torch.manual_seed(seed_from("untrained", number))
    return build_classifier(options, classes, config["dataset"]["sample_rate"]).eval()
