"""Stage: make the original from a user's checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from speechforget.config.inputs import code_of, decisive, targets_in, version_of
from speechforget.errors import UserError
from speechforget.models.checkpoint import UNMADE, Checkpoint, check_labels
from speechforget.stages.maker import Maker
from speechforget.store import Artefact


def import_original(maker: Maker, checkpoint: Checkpoint) -> Artefact:
    """Make the original from the user's checkpoint, in this process, however many devices there are."""
    classes, model, hearing = maker.data.classes, maker.config["model"], maker.hearing
    check_labels(checkpoint, classes)
    inputs = {
        "version": version_of("import_checkpoint"),
        "checkpoint": checkpoint.digest,
        "labels": list(checkpoint.labels),
        "classes": classes,
        "hearing": hearing,
        "model": {name: value for name, value in decisive("model", model).items() if name not in UNMADE},
        "code": code_of("original of a checkpoint", *targets_in(model)),
    }

    def build(folder: Path, _: str) -> None:
        from speechforget.stages.import_checkpoint import import_checkpoint

        try:
            import_checkpoint(folder, checkpoint, classes, maker.config["dataset"], model)
            if checkpoint.digest != inputs["checkpoint"]:
                raise UserError(f"{checkpoint.folder} changed while it was read: run the same command again.")
        except UserError:
            shutil.rmtree(folder)  # it can never be resumed
            raise

    return maker.produce("original", "-".join([*maker.words, "checkpoint"]), inputs, build)
