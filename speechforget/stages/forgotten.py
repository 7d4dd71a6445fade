"""Write beside a model what it has forgotten, so that a later run keeps it out of everything."""

from __future__ import annotations

from pathlib import Path

from speechforget.config.evaluation import Training
from speechforget.data.requests.past import mark_model
from speechforget.stages.maker import Maker


def mark(maker: Maker, training: Training, folder: Path) -> None:
    """Write the requests that an oracle or an unlearned model has forgotten; nothing for the original of a run.

    A request for an attribute is named without recordings.
    """
    request = maker.request_of(training)
    if request is None:
        return
    own = request if training.part else maker.request
    mark_model(folder, [*maker.request.past.requests, own.described(maker.data.table)])
