"""What a queue is told and what it tells: sizes, ends of jobs, scripts and mistakes; no job is handed in."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from support.slurm import broken_srun, mistake, on_slurm

pytest.importorskip("submitit", reason="submitit is not installed: pip install -e '.[slurm]'")

from speechforget.errors import UserError
from speechforget.launchers import slurm as slurm_queue
from speechforget.launchers.job_logs import last_words
from speechforget.launchers.jobs import Job

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("begins", "times", "tries", "code"), [(False, 2, 3, 0), (False, 9, 3, 150), (True, 1, 1, 150), (False, 0, 3, 7)]
)
def test_a_step_is_tried_again_only_where_no_task_began(
    begins: bool, times: int, tries: int, code: int, tmp_path: Path
) -> None:
    setup = broken_srun(tmp_path / "bin", begins, times)
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "srun").write_text(
        "#!/bin/bash\n" + ("exit 7\n" if times == 0 else f'exec {slurm_queue.BEGIN} "$@"\n')
    )
    (tmp_path / "next" / "srun").chmod(0o755)
    lines = [
        f"export PATH={tmp_path}/next:$PATH",
        setup,
        "set -eu",
        f"begun={tmp_path}/begun",
        "sleep() { :; }",
        slurm_queue.START_AGAIN,
        "srun true",
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        env={**os.environ, "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, (tmp_path / "bin" / "7").read_text().count("try")) == (code, tries), done.stderr
    assert done.stdout.count("SLURM has started nothing") == tries - 1 and not list(tmp_path.glob("begun*"))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("[0] seed=0\nValueError: no\n\nsrun: error: vm: task 0: Exited with exit code 1\n", "ValueError: no"),
        (
            "[0] seed=0\nslurmstepd: error: Detected 1 oom_kill event\nsrun: error: vm: task 0: Out Of Memory\n",
            "slurmstepd: error: Detected 1 oom_kill event",
        ),
        (
            "srun: Job step creation temporarily disabled\nsrun: fatal: no port\nsrun: Job step aborted\n",
            "srun: fatal: no port",
        ),
        ("epoch 1\repoch 2\x1b[0m\n", "epoch 2"),
        ("\n", ""),
        (9 * "long " * 10000 + "\nend", "end"),
        (None, ""),
    ],
)
def test_a_log_says_why_a_job_ended(log: str | None, words: str, tmp_path: Path) -> None:
    if log is not None:
        (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == words


def test_without_slurm_one_sentence_says_what_to_do(command, tmp_path: Path) -> None:
    done = command(
        "launch=slurm", f"output={tmp_path}", "dataset=folder", f"dataset.root={tmp_path}", env={"PATH": str(tmp_path)}
    )
    assert "launch=submitit_local" in mistake(done)


@pytest.mark.parametrize("choice", ["slurm", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_without_submitit_one_sentence_says_what_to_do(choice: str, command, tmp_path: Path) -> None:
    (tmp_path / "submitit.py").write_text("raise ImportError('left out')\n")
    done = command(
        f"launch={choice}", f"output={tmp_path}", f"dataset.root={tmp_path}", env={"PYTHONPATH": str(tmp_path)}
    )
    assert f'launch={choice} needs hydra-submitit-launcher: pip install -e ".[slurm]"' in mistake(done)
    assert command("--help", env={"PYTHONPATH": str(tmp_path)}).returncode == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("launch.minutes=0", "launch.minutes"),
        ("launch.minutes=2", "launch.notice_seconds"),
        ("launch.memory_gb=much", "launch.memory_gb"),
        ("launch.jobs_at_once=0", "launch.jobs_at_once"),
        ("launch.restarts=-1", "launch.restarts"),
    ],
)
def test_a_number_that_cannot_be_right_is_refused(override: str, words: str, configure) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        slurm_queue.parameters(configure("launch=slurm", override))


def test_a_job_has_the_size_of_its_trainer(configure) -> None:
    sizes = slurm_queue.parameters(
        configure("launch=slurm", "trainer=gpu", "trainer.devices=4", "trainer.nodes=2", "trainer.threads=3")
    )
    assert (sizes["nodes"], sizes["tasks_per_node"], sizes["gpus_per_node"], sizes["cpus_per_task"]) == (2, 4, 4, 3)
    assert slurm_queue.parameters(configure("launch=slurm"))["gpus_per_node"] is None
    more = slurm_queue.parameters(configure("launch=slurm", "+launch.more.mail-user=me"))["slurm_additional_parameters"]
    assert more == {"requeue": True, "mail_user": "me"}


class Gone:
    """A queue that has lost a job; accounting says something or nothing."""

    handle = type(
        "Handle", (), {"job_id": "7", "task": lambda self, _: self, "paths": type("Paths", (), {"stdout": "log"})}
    )()


@pytest.mark.parametrize(
    ("state", "missing", "outcome", "words"),
    [
        ("CANCELLED by 0", 0.0, "cancelled", "was cancelled"),
        ("CANCELLED", 7.0, "failed", "without a result"),  # not by a user
        ("CANCELLED", 1.0, None, ""),
        ("scontrol: CANCELLED", 7.0, "cancelled", "was cancelled"),
        ("scontrol: CANCELLED", 1.0, None, ""),  # accounting may be late
        ("scontrol: FAILED", 7.0, "failed", "(FAILED)"),
        ("OUT_OF_MEMORY", 7.0, "failed", "launch.memory_gb"),
        ("TIMEOUT", 7.0, "failed", "launch.minutes"),
        ("COMPLETED", 70.0, "failed", "without a result"),
        ("RUNNING", 70.0, "failed", "accounting: RUNNING"),
        ("", 70.0, "failed", "accounting has no record of it"),
        ("COMPLETED", 7.0, None, ""),  # its result may be on its way over a network file system
        ("RUNNING", 7.0, None, ""),
        ("REQUEUED", 7.0, None, ""),
        ("NODE_FAIL", 1.0, None, ""),
        ("", 7.0, None, ""),
    ],
)
def test_what_becomes_of_a_job_that_left_no_result(
    state: str, missing: float, outcome: str | None, words: str, tmp_path: Path, monkeypatch
) -> None:
    job = Job(work=None, config={}, handle=Gone.handle)  # type: ignore[arg-type]
    answer = "exit 1"
    if state.startswith("scontrol: "):
        answer, state = f"echo JobId=7 JobState={state.removeprefix('scontrol: ')} Reason=None", ""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm_queue, "accounted", lambda _: state)
    found = slurm_queue.Slurm.fate(None, job, missing)  # type: ignore[arg-type]
    assert (found is None) if outcome is None else (found is not None and found[0] == outcome and words in found[1])


@on_slurm
@pytest.mark.parametrize("name", ["slurm_multinode", "slurm_container"])
def test_slurm_can_read_a_script(name: str) -> None:
    smaller = [
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--gpus-per-node=0",
        "--mem=1G",
        "--output=/dev/null",
    ]
    asked = subprocess.run(
        ["sbatch", "--test-only", *smaller, f"scripts/{name}.sh"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_read_by_the_shell(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert "python" in script.read_text()
