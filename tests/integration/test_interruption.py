"""Ctrl-C while a model is trained: one sentence, exit code 130, and the same command resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["trainer.devices=2"], ["seed=0,1", "-m"]], ids=["alone", "two ranks", "sweep"])
def test_ctrl_c_in_training_is_one_sentence(more: list[str], small: list[str], tmp_path: Path) -> None:
    """Interrupt as a terminal does: every process of the command gets the signal."""
    line = [sys.executable, str(ROOT / "run.py"), *small, "train.epochs=100000", f"output={tmp_path}", *more]
    command = subprocess.Popen(
        line, cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        # Under a pytest in the background, the signal would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    try:
        while not list(tmp_path.glob("original/*/checkpoint.ckpt")):
            assert command.poll() is None, command.communicate()
            time.sleep(0.02)
        os.killpg(command.pid, signal.SIGINT)
        out, err = command.communicate(timeout=300)
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert (
        command.returncode == 130
        and err.splitlines()[-1] == "Interrupted. The same command resumes where this one stopped."
    ), err
    assert "Traceback" not in out + err and "Error" not in err and not list(tmp_path.glob("original/*/DONE"))
