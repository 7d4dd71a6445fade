"""Save a checkpoint after each epoch, whole or not at all, and say whether a later run can resume from it."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from speechforget.distributed import collectives
from speechforget.seeding import seed_from
from speechforget.store import check_held, write_text
from speechforget.store.files import sync
from speechforget.store.manifest import sha256
from speechforget.tracking.curves import Curve
from speechforget.training.cost_meter import Cost

logger = logging.getLogger(__name__)

WEIGHTS, HASHES = "checkpoint.ckpt", "checkpoint.sha256"
PARTIAL = "checkpoint.partial"  # a checkpoint while it is written


class Resumable(Checkpoint):
    """Save the training state after each epoch; reseed torch at each epoch, so that a resumed run draws the same."""

    def __init__(self, folder: Path, seed: int, cost: Cost, curve: Curve) -> None:
        self.path, self.hashes, self.partial = folder / WEIGHTS, folder / HASHES, folder / PARTIAL
        self.seed, self.cost, self.curve = seed, cost, curve

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed torch's generator, which draws for what has no draws by row number."""
        rank = [collectives.rank()] if collectives.rank() else []
        torch.manual_seed(seed_from(self.seed, "epoch", trainer.current_epoch, *rank))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the new checkpoint beside the old one, then replace that."""
        self.cost.merge()
        check_held(self.path.parent)
        if collectives.rank() == 0:
            try:
                trainer.save_checkpoint(self.partial)
            except RuntimeError as error:  # torch raises this for a full disk
                if "PytorchStreamWriter" in str(error) or "enforce fail" in str(error):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.partial)) from error
                raise
            sync(self.partial)
            # Both hashes are written, so that at every moment the checkpoint that is there has its hash.
            known = [sha256(path) for path in (self.path, self.partial) if path.exists()]
            write_text(self.hashes, "\n".join(known))
            self.partial.replace(self.path)

    def usable(self) -> bool:
        """Return whether there is a checkpoint with the bytes that were written; torch does not check that."""
        if not self.path.exists():
            return False
        if self.hashes.exists() and sha256(self.path) in self.hashes.read_text(errors="replace").split():
            return True
        logger.warning("The checkpoint in %s is damaged: training starts again from its beginning.", self.path.parent)
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the cost and the learning curve so far."""
        return {**self.cost.state_dict(), "curve": self.curve.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the cost and the learning curve."""
        self.cost.load_state_dict(state_dict)
        self.curve.restore(state_dict["curve"])


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint of a folder; rank 0 does it."""
    if collectives.rank() == 0:
        for name in (WEIGHTS, HASHES, PARTIAL):
            (folder / name).unlink(missing_ok=True)
