"""Which device a process uses, and the Lightning Trainer that goes with it.

Lightning always sees one process with one device. Which processes work together, and on what, is decided in `team.py`, and sums over them are
taken in `ranks.py`; so Lightning never starts a process, never reads the environment of SLURM or torchrun, and never runs a command line again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from speechforget.distributed.rendezvous import DEVICE
from speechforget.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def start_process(trainer: Mapping[str, Any]) -> torch.device:
    """Fixes threads and determinism of this process, and gives its device. Raises UserError for what this machine lacks."""
    torch.set_num_threads(int(trainer["threads"]))
    _keep_freed_memory()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    tf32 = trainer["precision"] == "tf32-true"  # 10 bits of mantissa in products, of 23
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    if trainer["accelerator"] == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "trainer=gpu, but PyTorch sees no GPU here: use trainer=cpu, or install a CUDA build of PyTorch."
        )
    index, count = int(os.environ.get(DEVICE, "0")), torch.cuda.device_count()
    if index >= count > 1:
        raise UserError(
            f"trainer.devices={trainer['devices']}, but this machine has {count} GPUs: set trainer.devices={count}."
        )
    device = torch.device(
        "cuda", index % count
    )  # a cluster that gives each process a GPU of its own shows it that one only
    torch.cuda.set_device(device)
    return device


def compiled(model: nn.Module, trainer: Mapping[str, Any]) -> nn.Module:
    """The same model, whose forward pass is compiled where the trainer says so; weights and their names stay as they are."""
    if trainer["compile"]:
        model.compile()
    return model


def _keep_freed_memory() -> None:
    """Has glibc's malloc reuse what tensors free instead of handing it back to the system, which would have to zero it again for each batch.

    Training on a CPU is about 1.5 times faster for it. Elsewhere than on glibc it does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def make_trainer(trainer: Mapping[str, Any], epochs: int, callbacks: Sequence[Callback]) -> Trainer:
    """A Trainer that only trains, on this process's device: no prompt, no output of its own, a fresh loader every epoch."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.plugins.environments import LightningEnvironment

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*")
    return Trainer(
        accelerator=trainer["accelerator"],
        devices=1 if trainer["accelerator"] == "cpu" else [torch.cuda.current_device()],
        plugins=[LightningEnvironment()],
        precision="32-true" if trainer["precision"] == "tf32-true" else trainer["precision"],
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
