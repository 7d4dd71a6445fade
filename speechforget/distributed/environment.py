"""Which task of a job this process is, read from the environment that a cluster or torchrun set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """rank of world tasks, local_rank on this machine. job: the same for all tasks of one start of a job, and for nothing else."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    job: str = ""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place among the tasks of its job: of torchrun (or whatever sets RANK and WORLD_SIZE), submitit on this machine, or srun."""
    get = environment.get
    if "RANK" in environment and "WORLD_SIZE" in environment and "MASTER_ADDR" in environment:
        job = [
            "torchrun",
            get("TORCHELASTIC_RUN_ID", ""),
            get("MASTER_ADDR", ""),
            get("MASTER_PORT", ""),
            get("TORCHELASTIC_RESTART_COUNT", ""),
        ]
        return _place("RANK", "WORLD_SIZE", "LOCAL_RANK", job, environment)
    if get("SUBMITIT_EXECUTOR") == "local" and "SUBMITIT_LOCAL_GLOBALID" in environment:
        job = ["local", get("SUBMITIT_LOCAL_JOB_ID", ""), get("SPEECHFORGET_START", "")]
        return _place("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID", job, environment)
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:  # a batch script itself is no step
        job = ["slurm", get("SLURM_JOB_ID", ""), get("SLURM_STEP_ID", ""), get("SLURM_RESTART_COUNT", "0")]
        return _place("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", job, environment)
    return Place()


def _place(rank: str, world: str, local_rank: str, job: list[str], environment: Mapping[str, str]) -> Place:
    return Place(
        int(environment[rank]),
        int(environment.get(world, "1")),
        int(environment.get(local_rank, "0")),
        "-".join(filter(None, job)),
    )
