"""Sweeps on SLURM, if this machine has one, and through submitit as processes of this machine."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.slurm import broken_srun, mistake, on_slurm

pytest.importorskip("submitit", reason="submitit is not installed: pip install -e '.[slurm]'")

from speechforget.launchers import slurm as slurm_queue
from speechforget.launchers.jobs import Job
from speechforget.launchers.shared_models import first_wave
from speechforget.stages.split import split_corpus
from speechforget.store import Store

ROOT = Path(__file__).parents[2]
LONG = ["only=original", "train.epochs=250"]  # about 10 s on a free core: time to interrupt


@pytest.fixture
def start(small: list[str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(arguments ...) starts `python run.py` in the background; the end of the test interrupts it."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        # What a shell starts in the background ignores Ctrl-C, and so would this.
        line = ["env", "--default-signal=INT", sys.executable, str(ROOT / "run.py"), *small, *arguments]
        everything = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", **environment}
        processes.append(
            subprocess.Popen(line, cwd=ROOT, env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def slurm(output: Path, *more: str) -> list[str]:
    return ["launch=slurm", "launch.memory_gb=2", f"output={output}", *more]


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path) -> Iterator[None]:
    """Prints what the jobs said, which pytest shows where the test failed."""
    yield
    for path in sorted(tmp_path.rglob("*_log.out")):
        print(f"== {path}\n{path.read_text()}")


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)
    return found


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=280)
    return process.returncode, out, err


def jobs_of(output: Path) -> list[str]:
    """Ids of the jobs that a launching process has handed in."""
    return sorted(path.name.removesuffix("_submitted.pkl") for path in output.glob("sweeps/*/jobs/*_submitted.pkl"))


def accounting(jobs: list[str], *fields: str) -> dict[str, list[str]]:
    line = [
        "sacct",
        "--allocations",
        "--noheader",
        "--parsable2",
        f"--format=JobID,{','.join(fields)}",
        f"--jobs={','.join(jobs)}",
    ]
    rows = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    return {row.split("|")[0]: row.split("|")[1:] for row in rows}


def checkpoint(output: Path) -> list[Path]:
    return list(output.glob("original/*/checkpoint.ckpt"))


def weights(output: Path) -> bytes:
    (path,) = output.glob("original/*/weights.safetensors")
    return path.read_bytes()


def figures(output: Path) -> dict[str, Any]:
    """All metrics of all results, by the result's folder; not how long things took."""
    found = {
        path.parent.name: json.loads(path.read_text())["comparison"] for path in output.glob("result/*/result.json")
    }
    return {
        name: {
            model: {metric: value for metric, value in row.items() if metric != "seconds"}
            for model, row in rows.items()
        }
        for name, rows in found.items()
    }


@pytest.fixture(scope="module")
def undisturbed(command, small, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a long training, in one go, in one process."""
    output = tmp_path_factory.mktemp("undisturbed")
    done = command(*small, *LONG, f"output={output}")
    assert done.returncode == 0, done.stderr
    return weights(output)


@on_slurm
@pytest.mark.slow
def test_a_sweep_trains_shared_models_once_and_first(command, small, configure, tmp_path: Path) -> None:
    sweep = ["method=none,random_label"]
    decode(configure(f"output={tmp_path / 'slurm'}"))
    done = command(*small, *slurm(tmp_path / "slurm", *sweep))
    assert done.returncode == 0, done.stderr
    assert "First 2 models" in done.stderr and done.stdout.count("  done ") == 2
    for stage in ("original", "oracle"):
        assert len(list((tmp_path / "slurm" / stage).glob("*/DONE"))) == 1

    times = accounting(jobs_of(tmp_path / "slurm"), "JobName", "State", "Start", "End")
    first = [row for row in times.values() if row[0] == "speechforget-first"]
    methods = [row for row in times.values() if row[0] == "speechforget"]
    assert len(first) == len(methods) == 2
    assert max(row[3] for row in first) <= min(row[2] for row in methods)
    logs = [path.read_text() for path in (tmp_path / "slurm").glob("sweeps/*/jobs/*_log.out")]
    assert sum("only=original" in log for log in logs) == sum("only=oracle" in log for log in logs) == 1

    alone = command("-m", *small, *sweep, f"output={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    assert len(figures(tmp_path / "alone")) == 2 and figures(tmp_path / "slurm") == figures(tmp_path / "alone")

    work = SimpleNamespace(overrides=[], launcher=None, outcomes=tmp_path)
    assert first_wave([Job(work, configure("launch=slurm", f"output={tmp_path / 'slurm'}"))] * 2) == []  # type: ignore[arg-type]


def decode(config: dict[str, Any]) -> None:
    """Decode the corpus of a run into its cache, and split it elsewhere: a first wave or a plan can start then."""
    with tempfile.TemporaryDirectory() as elsewhere:
        split_corpus(config, Store(Path(elsewhere)))


@pytest.mark.parametrize("decoded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_first_wave_is_what_jobs_share(decoded: bool, configure, tmp_path: Path, capsys) -> None:
    work = SimpleNamespace(overrides=[], launcher=None, outcomes=tmp_path)
    places = [f"output={tmp_path}", "launch=submitit_local"]
    configs = [
        configure(*places, f"method={method}", f"dataset.split_seed={seed}")
        for method, seed in itertools.product(("none", "scrub"), (0, 1))
    ]
    if decoded:
        for config in configs:
            decode(config)
    wave = first_wave([Job(work, config) for config in configs])  # type: ignore[arg-type]
    assert [(job.config["dataset"]["split_seed"], job.stage) for job in wave] == list(
        itertools.product((0, 1), ("original", "oracle"))
    )
    assert not capsys.readouterr().err and not (tmp_path / "split").exists()


def test_a_first_wave_that_cannot_be_made_says_why(configure, tmp_path: Path, capsys) -> None:
    work = SimpleNamespace(overrides=[], launcher=None, outcomes=tmp_path)
    config = configure(f"output={tmp_path}", "launch=submitit_local")
    decode(config)
    unseen = [Job(work, {**config, "dataset": {**config["dataset"], "root": "/not/here"}})] * 2  # type: ignore[arg-type]
    wave = first_wave([*unseen, Job(work, config)])  # type: ignore[arg-type]
    assert [job.stage for job in wave] == ["original", "oracle"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "No first wave for 2 of 3 jobs, which cannot be planned on this machine: dataset.root=/not/here is not a folder"
    )


@on_slurm
@pytest.mark.slow
@pytest.mark.parametrize("preempted", [False, True])
def test_a_job_that_ran_out_of_time_and_was_preempted_ends_the_same(
    preempted: bool, start, undisturbed: bytes, tmp_path: Path
) -> None:
    process = start(*slurm(tmp_path, *LONG, "launch.partition=debug"))
    wait_for(lambda: checkpoint(tmp_path))
    (job,) = jobs_of(tmp_path)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # what SLURM sends before the time limit
    wait_for(lambda: int(restarts(job)) == 1 and state(job) == "RUNNING")
    wait_for(lambda: "Resuming from the checkpoint" in log_of(tmp_path, job))
    if preempted:
        moment = checkpoint(tmp_path)[0].stat().st_mtime_ns
        wait_for(lambda: checkpoint(tmp_path)[0].stat().st_mtime_ns != moment)
        line = ["sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true"]
        urgent = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()
    code, out, err = ended(process)
    assert code == 0 and "  done " in out, err
    starts = 2 if preempted else 1
    assert restarts(job) == str(starts) and log_of(tmp_path, job).count("Resuming from the checkpoint") == starts
    if preempted:
        assert accounting([urgent], "State")[urgent] == ["COMPLETED"]
    assert weights(tmp_path) == undisturbed


def shown(job: str, name: str) -> str:
    asked = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return re.search(rf"\b{name}=(\S+)", asked)[1]  # type: ignore[index]


def restarts(job: str) -> str:
    return shown(job, "Restarts")


def state(job: str) -> str:
    return shown(job, "JobState")


def log_of(output: Path, job: str) -> str:
    return "".join(path.read_text() for path in output.glob(f"sweeps/*/jobs/{job}_0_log.out"))


@on_slurm
@pytest.mark.slow
def test_a_cancelled_job_is_reported_at_once_and_the_others_go_on(start, tmp_path: Path) -> None:
    # Long enough to be running still when SLURM kills it: submitit bears the warning that comes ten seconds before.
    process = start(*slurm(tmp_path, "only=original", "seed=0,1,2", "launch.jobs_at_once=2", "train.epochs=600"))
    jobs = wait_for(lambda: len(jobs_of(tmp_path)) == 3 and jobs_of(tmp_path))
    # SLURM keeps no record of a task that is cancelled while another one of its array waits, too.
    wait_for(lambda: [state(job) for job in jobs] == ["RUNNING", "RUNNING", "PENDING"])
    running = wait_for(lambda: [job for job in jobs if "only=original" in log_of(tmp_path, job)])[0]
    waiting = jobs[2]
    assert (state(running), state(waiting)) == ("RUNNING", "PENDING")
    subprocess.run(["scancel", waiting, running], check=True)
    wait_for(lambda: len(list(tmp_path.glob("sweeps/*/[0-9].json"))) == 2, seconds=60)
    (other,) = set(jobs) - {waiting, running}
    assert state(other) == "RUNNING"  # the report did not wait for it
    code, out, err = ended(process)
    assert code == 1 and out.count("  cancelled ") == 2 and out.count("  done ") == 1, out + err
    for job in (waiting, running):
        log = r" before it began" if job == waiting else rf"; log: \S+{job}_0_log.out"
        assert re.search(rf"SLURM job {job} was cancelled \(CANCELLED by (\d+|somebody)\){log}\n", err), err
    assert len(list(tmp_path.glob("original/*/DONE"))) == 1


@on_slurm
def test_an_interrupt_cancels_what_was_handed_in(start, small, tmp_path: Path) -> None:
    process = start(*slurm(tmp_path, "method=none,random_label", "train.epochs=250"))
    jobs = wait_for(lambda: len(jobs_of(tmp_path)) == 4 and jobs_of(tmp_path))
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130 and "Cancelled 4 jobs" in err and "The same command resumes" in err
    wait_for(lambda: all(row[0].startswith("CANCELLED") for row in accounting(jobs, "State").values()))


@on_slurm
@pytest.mark.slow
def test_what_slurm_refuses_is_one_sentence(command, small, tmp_path: Path) -> None:
    line = mistake(command(*small, *slurm(tmp_path, "method=none", "launch.partition=nowhere")))
    assert line.startswith("Error: SLURM refused the jobs: ") and "nvalid partition" in line


@on_slurm
@pytest.mark.slow
def test_a_device_is_a_task(command, small, tmp_path: Path) -> None:
    done = command(*small, *slurm(tmp_path, "trainer.devices=2", "method=random_label"))
    assert done.returncode == 0, done.stderr
    (job,) = jobs_of(tmp_path)
    assert shown(job, "NumTasks") == "2"
    assert len(list(tmp_path.glob(f"sweeps/*/jobs/{job}_[01]_log.out"))) == 2
    assert len(figures(tmp_path)) == 1


COUNTED = '''
import os
from pathlib import Path
from speechforget.models.tcresnet import TCResNet

class Counted(TCResNet):
    """Notes each process that trains it."""
    def forward(self, *inputs):
        if self.training and not getattr(self, "noted", False):
            self.noted = True
            with Path(os.environ["TRAININGS"]).open("a") as file:
                file.write("one\\n")
        return super().forward(*inputs)
'''


@on_slurm
@pytest.mark.slow
def test_four_sweeps_at_once_train_each_model_once(start, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    counted = {"PYTHONPATH": str(tmp_path), "TRAININGS": str(tmp_path / "trainings")}
    options = slurm(tmp_path / "outputs", "method=none", "evaluation=quick,paper", "model._target_=counted.Counted")
    sweeps = [start(*options, **counted) for _ in range(4)]
    for code, out, err in map(ended, sweeps):
        assert code == 0 and out.count("  done ") == 2, err
    assert (tmp_path / "trainings").read_text().split() == ["one", "one"]


@on_slurm
@pytest.mark.slow
def test_what_slurm_could_not_start_is_tried_again_and_in_the_end_told(command, small, tmp_path: Path) -> None:
    setups = [
        broken_srun(tmp_path / name, begins=False, times=times)
        for name, times in (("two", slurm_queue.TRIES - 1), ("all", slurm_queue.TRIES))
    ]
    sweep = "launch.setup=" + ",".join(f"['{setup}']" for setup in setups)
    done = command(*small, *slurm(tmp_path / "outputs", "only=original", "train.epochs=1", sweep))
    tries = [path.read_text().count("try") for path in tmp_path.glob("*/[0-9]*")]
    assert tries == [slurm_queue.TRIES, slurm_queue.TRIES]
    assert done.returncode == 1 and done.stdout.count("  done ") == done.stdout.count("  failed ") == 1, (
        done.stdout + done.stderr
    )
    # SLURM records a plain CANCELLED if it checks its jobs while one ends.
    assert re.search(
        r"\((FAILED|CANCELLED)\); last line: srun: error: Unable to create step: no port is free; log: \S+_log.out\n",
        done.stderr,
    ), done.stderr
    wait_for(lambda: not list((tmp_path / "outputs").glob("sweeps/*/jobs/begun*")), seconds=20)


@pytest.mark.slow
def test_the_same_jobs_run_as_processes_of_this_machine(command, small, configure, tmp_path: Path) -> None:
    decode(configure(f"output={tmp_path}"))
    done = command(*small, "launch=submitit_local", f"output={tmp_path}", "method=none,random_label", "train.epochs=1")
    assert done.returncode == 0, done.stderr
    assert "First 2 models" in done.stderr and done.stdout.count("  done ") == 2
    assert len(figures(tmp_path)) == 2
    logs = {path.name: path.read_text() for path in tmp_path.glob("sweeps/*/jobs/*_log.out")}
    assert len(logs) == 4 and sum("only=" in log for log in logs.values()) == 2


@pytest.mark.slow
def test_processes_that_die_are_told(start, tmp_path: Path) -> None:
    process = start("launch=submitit_local", f"output={tmp_path}", "only=original", "seed=0,1")
    victim = wait_for(lambda: len(jobs_of(tmp_path)) == 2 and jobs_of(tmp_path))[0]
    wait_for(lambda: "only=original" in log_of(tmp_path, victim))
    (task,) = Path(f"/proc/{victim}/task/{victim}/children").read_text().split()
    os.kill(int(task), signal.SIGKILL)
    code, out, err = ended(process)
    assert code == 1 and out.count("  failed ") == 1 and out.count("  done ") == 1, out + err
    assert re.search(rf"process {victim} ended without a result; last line: .+; log: \S+{victim}_0_log.out", err), err
