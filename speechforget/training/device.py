"""Choose the device of a process, and make the Lightning Trainer for it.

Lightning always sees one process with one device. `distributed.group` decides which processes work together and
`distributed.collectives` sums over them. So Lightning never starts a process, never reads the environment of SLURM or
torchrun, and never runs a command line again.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from speechforget.distributed.rendezvous import DEVICE
from speechforget.errors import UserError
from speechforget.training.runtime import settle

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer


def start_process(trainer: Mapping[str, Any]) -> torch.device:
    """Set threads, memory and determinism of this process and return its device.

    Raises UserError for a GPU that this machine does not have.
    """
    torch.set_num_threads(int(trainer["threads"]))
    settle()
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    tf32 = trainer["precision"] == "tf32-true"  # products with 10 bits of mantissa instead of 23
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
    # A cluster that gives each process its own GPU may show it only that one, as number 0.
    device = torch.device("cuda", index % count)
    torch.cuda.set_device(device)
    return device


def compiled(model: nn.Module, trainer: Mapping[str, Any]) -> nn.Module:
    """Compile the forward pass in place if the trainer says so, and return the model; weights keep their names."""
    if trainer["compile"]:
        model.compile()
    return model


def make_trainer(trainer: Mapping[str, Any], epochs: int, callbacks: Sequence[Callback]) -> Trainer:
    """Make a Trainer for the device of this process that prints nothing and asks for a new loader every epoch."""
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
