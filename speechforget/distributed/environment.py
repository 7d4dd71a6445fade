"""Read this process's rank in its job from the environment that SLURM, submitit or torchrun set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class JobRank:
    """Rank `rank` of `world`, and `local_rank` on its machine. job: an id of this start, equal on all ranks."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    job: str = ""


def job_rank(environment: Mapping[str, str] = os.environ) -> JobRank:
    """Return this process's rank: of torchrun (or any launcher that sets RANK, WORLD_SIZE), local submitit, or srun."""
    get = environment.get
    if "RANK" in environment and "WORLD_SIZE" in environment and "MASTER_ADDR" in environment:
        names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
        job = ["torchrun", *(get(name, "") for name in names)]
        return _job_rank("RANK", "WORLD_SIZE", "LOCAL_RANK", job, environment)
    if get("SUBMITIT_EXECUTOR") == "local" and "SUBMITIT_LOCAL_GLOBALID" in environment:
        job = ["local", get("SUBMITIT_LOCAL_JOB_ID", ""), get("SPEECHFORGET_START", "")]
        rank, world, local_rank = "SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID"
        return _job_rank(rank, world, local_rank, job, environment)
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:  # a batch script is not a step
        job = ["slurm", get("SLURM_JOB_ID", ""), get("SLURM_STEP_ID", ""), get("SLURM_RESTART_COUNT", "0")]
        return _job_rank("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", job, environment)
    return JobRank()


def _job_rank(rank: str, world: str, local_rank: str, job: list[str], environment: Mapping[str, str]) -> JobRank:
    return JobRank(
        int(environment[rank]),
        int(environment.get(world, "1")),
        int(environment.get(local_rank, "0")),
        "-".join(filter(None, job)),
    )
