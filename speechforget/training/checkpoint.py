"""Save a checkpoint after each epoch, whole or not at all, and say whether a later run can resume from it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
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

WEIGHTS = "checkpoint.ckpt"
TOGETHER = "together.ckpt"  # of a model that trains with others (`stages.train_many`)
STATE = "state.ckpt"  # the last checkpoint of a kept epoch, from which another training continues
HASHES, PARTIAL = ".sha256", ".partial"  # suffixes: its hash, and a checkpoint while it is written


class Resumable(Checkpoint):
    """Save the training state after each epoch; reseed torch at each epoch, so that a resumed run draws the same."""

    def __init__(self, folder: Path, seed: int, cost: Cost, curve: Curve) -> None:
        self.path = folder / WEIGHTS
        self.seed, self.cost, self.curve = seed, cost, curve

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed torch's generator, which draws for what has no draws by row number."""
        rank = [collectives.rank()] if collectives.rank() else []
        epoch = trainer.current_epoch + getattr(pl_module, "done", 0)
        torch.manual_seed(seed_from(self.seed, "epoch", epoch, *rank))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the new checkpoint beside the old one, then replace that."""
        self.cost.merge()
        check_held(self.path.parent)
        if collectives.rank() == 0:
            replace(self.path, trainer.save_checkpoint)

    def usable(self) -> bool:
        """See the function `usable`."""
        return usable(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return the cost and the learning curve so far."""
        return {**self.cost.state_dict(), "curve": self.curve.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the cost and the learning curve."""
        self.cost.load_state_dict(state_dict)
        self.curve.restore(state_dict["curve"])


def replace(path: Path, save: Callable[[Path], object]) -> None:
    """Save a new checkpoint beside the old one, then replace that. Raises OSError for a full disk."""
    hashes, partial = path.with_suffix(HASHES), path.with_suffix(PARTIAL)
    try:
        save(partial)
    except RuntimeError as error:  # torch raises this for a full disk
        if "PytorchStreamWriter" in str(error) or "enforce fail" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial)) from error
        raise
    sync(partial)
    # Both hashes are written, so that at every moment the checkpoint that is there has its hash.
    known = [sha256(file) for file in (path, partial) if file.exists()]
    write_text(hashes, "\n".join(known))
    partial.replace(path)


def usable(path: Path) -> bool:
    """Return whether there is a checkpoint with the bytes that were written; torch does not check that."""
    if not path.exists():
        return False
    hashes = path.with_suffix(HASHES)
    if hashes.exists() and sha256(path) in hashes.read_text(errors="replace").split():
        return True
    logger.warning("The checkpoint in %s is damaged: training starts again from its beginning.", path.parent)
    return False


def keep_state(folder: Path) -> None:
    """Keep the checkpoint of a fit that has ended; rank 0 does it."""
    if collectives.rank() == 0 and (folder / WEIGHTS).exists():
        (folder / WEIGHTS).replace(folder / STATE)


def begin_from(start: Path, folder: Path) -> None:
    """Let a fit in `folder` continue from the kept state in `start`, unless it has a checkpoint; rank 0 does it."""
    if collectives.rank() == 0 and (start / STATE).exists() and not usable(folder / WEIGHTS):
        replace(folder / WEIGHTS, lambda partial: shutil.copyfile(start / STATE, partial))


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoints of a folder; rank 0 does it."""
    if collectives.rank() == 0:
        for path in (folder / WEIGHTS, folder / TOGETHER):
            for file in (path, path.with_suffix(HASHES), path.with_suffix(PARTIAL)):
                file.unlink(missing_ok=True)
