"""Stage: keep the state of an original's training after some of its epochs.

The state is an artefact of its own, so neither the key nor the weights of the original depend on what is kept. A
training continues from the latest kept epoch before it, and resuming is exact.
"""

from __future__ import annotations

from pathlib import Path

from speechforget.config.evaluation import Training
from speechforget.config.inputs import version_of
from speechforget.config.structured import kept_epochs, rewinds, rewound_to
from speechforget.stages.maker import Maker
from speechforget.store import Artefact, key_of

STAGE = "kept_epoch"


def last_kept(maker: Maker, training: Training) -> Path | None:
    """Keep the epochs that the run asks for; return the folder of the last one, None for an oracle or without any."""
    if training.stage != "original":
        return None
    kept: Artefact | None = None
    for epoch in kept_epochs(maker.config):
        kept = keep_epoch(maker, training, epoch, kept)
    return kept.folder if kept else None


def rewound(maker: Maker, training: Training) -> Artefact | None:
    """Make or find the kept epoch that the method starts from, for one model to unlearn; None without rewinding."""
    original = training._replace(stage="original")
    return keep_epoch(maker, original, rewound_to(maker.config)) if rewinds(maker.config) else None


def keep_epoch(maker: Maker, original: Training, epoch: int, before: Artefact | None = None) -> Artefact:
    """Make or find the state of an original's training after some epochs. before: a kept epoch before it."""
    whole = maker.inputs_of(original)
    inputs = {
        "version": version_of("train"),
        "original": key_of("original", whole),
        **{told: whole[told] for told in ("split", "without", "seed")},
        "epoch": epoch,
    }
    name, title = f"{maker.name_of(original)}-epoch{epoch}", f"original, epoch {epoch}"
    kept = original._replace(stage=STAGE, epoch=epoch)
    return maker.make(kept, name, inputs, title, before.folder if before else None)
