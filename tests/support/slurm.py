"""Whether this machine has SLURM, and an srun that fails."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def no_slurm() -> str:
    """Why tests on SLURM are skipped; empty where they can run."""
    if shutil.which("sbatch") is None:
        return "there is no sbatch on this machine"
    asked = subprocess.run(["sinfo", "--noheader", "--format=%a"], capture_output=True, text=True, check=False)
    return "" if asked.returncode == 0 and "up" in asked.stdout else "SLURM does not answer (sinfo)"


WHY = no_slurm()


def on_slurm(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.slurm(pytest.mark.skipif(bool(WHY), reason=WHY)(test))


def broken_srun(folder: Path, begins: bool, times: int) -> str:
    """Return a setup command: a wrapper of srun that fails `times` times, before or after the rank began."""
    folder.mkdir()
    words = "srun: error: Unable to create step: no port is free\\n"
    words += "srun: error: Timed out waiting for job step to complete\\n"
    fails = [*([': > "$SPEECHFORGET_BEGUN"'] if begins else []), f"printf '{words}' >&2", "exit 150"]
    count = [
        f'echo try >> "{folder}/$SLURM_JOB_ID"',
        f'if [ $(wc -l < "{folder}/$SLURM_JOB_ID") -le {times} ]; then',
        *fails,
        "fi",
    ]
    (folder / "srun").write_text("\n".join(["#!/bin/bash", *count, f'PATH=${{PATH#{folder}:}} exec srun "$@"\n']))
    (folder / "srun").chmod(0o755)
    return f"export PATH={folder}:$PATH"


def mistake(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    return line
