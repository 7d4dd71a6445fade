"""A team of several processes: started in every way, failing on any rank."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from speechforget.distributed import group, worker
from speechforget.distributed.environment import JobRank, job_rank
from speechforget.distributed.protocol import Order
from speechforget.distributed.rendezvous import LOST, start_worker
from speechforget.errors import Diverged, NotApplicable, RankError, UserError
from speechforget.pipeline import Pipeline
from speechforget.store import Store

ROOT = Path(__file__).parents[2]
EXACT = ["trainer.precision=64-true", "train.epochs=2"]
TOY = """
import os, signal, time
from speechforget.distributed import collectives
from speechforget.errors import UserError
from speechforget.methods.base.method import Method


class Failing(Method):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def prepare(self, student, context):
        if collectives.rank() == 1:
            if self.how == "raise":
                raise ZeroDivisionError("broken on purpose")
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "mistake":
                raise UserError("That number is wrong: take another.")
        if self.how == "diverge":
            next(student.parameters()).data.add_(collectives.rank())

    def passes(self):
        from speechforget.methods.base.method import Pass
        return [Pass("forget", 4, 0.0)]

    def loss(self, student, batch, current):
        if self.how == "diverge" and collectives.rank() == 1:
            next(student.parameters()).data.add_(1.0)
        if self.how == "overflow":
            student.head.weight.data.fill_(float("inf"))
        from speechforget.methods.common.losses import cross_entropy
        return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)


class Both(Method):
    def passes(self):
        from speechforget.methods.base.method import Pass
        both = [Pass("both", 5, 0.01, length="longer"), Pass("both", 3, 0.01, "batch", length=4)]
        return [*both, Pass("mix", 7, 0.01, "frozen")]

    def loss(self, student, batch, current):
        from speechforget.methods.common.losses import cross_entropy
        if current.stream == "mix":
            return self.mean(cross_entropy(student(*batch.inputs).logits, batch.labels), batch)
        forget, retain = (self.mean(cross_entropy(student(*half.inputs).logits, half.labels), half) for half in batch)
        return retain - 0.1 * forget
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A method that fails on rank 1, as its yaml says, and a folder for outputs."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toy_team.py").write_text(TOY)
    (folder / "conf" / "method").mkdir(parents=True)
    for how in ("raise", "kill", "mistake", "diverge", "overflow"):
        text = f"name: failing_{how}\nrequests: [sample, class]\n_target_: toy_team.Failing\nhow: {how}\n"
        (folder / "conf" / "method" / f"failing_{how}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    group.close_team()


def workers() -> list[int]:
    """Return the process ids of this process's workers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, parent = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"speechforget.stages.worker" in line and int(parent) == os.getpid():
            found.append(int(entry.name))
    return found


def failing(configure, toys: Path, how: str) -> Pipeline:
    """Return a run of the failing method with a finished original and a started team."""
    config = configure(f"output={toys / 'outputs'}", *EXACT, "trainer.devices=2")
    group.open_team(config)._gather()
    config["method"] = {"name": f"failing_{how}", "requests": ["class"], "_target_": "toy_team.Failing", "how": how}
    pipeline = Pipeline(config, Store(toys / "outputs"))
    pipeline.train("original")
    return pipeline


def fails(configure, toys: Path, how: str, error: type, words: str) -> None:
    """Let a rank fail and assert that the error is right, no worker is left and nothing counts as finished."""
    pipeline = failing(configure, toys, how)
    original = pipeline.train("original")
    started = time.monotonic()
    with pytest.raises(error, match=words):
        pipeline.unlearn(original)
    assert time.monotonic() - started < 600  # a rank that waits for a lost one gives up after two hours only
    assert not workers()
    assert not list(toys.glob(f"outputs/unlearned/failing_{how}-*/DONE"))


# The order of these tests saves starts of teams: a failure ends a team, and any other order starts the next one.
@pytest.mark.slow
def test_a_rank_that_raises_fails_its_job_and_the_next_job_has_a_fresh_team(configure, toys: Path) -> None:
    words = r"rank 1 \(process \d+ on .*\) failed: ZeroDivisionError: broken on purpose"
    fails(configure, toys, "raise", RankError, words)
    config = configure(f"output={toys / 'outputs'}", *EXACT, "trainer.devices=2", "method=none")
    fresh = Pipeline(config, Store(toys / "outputs"))
    assert (fresh.unlearn(fresh.train("original")).folder / "DONE").exists()  # no lock is left either


@pytest.mark.slow
def test_a_killed_rank_fails_its_job(configure, toys: Path) -> None:
    fails(configure, toys, "kill", RankError, r"rank 1 \(process \d+ on .*\) failed: killed by SIGKILL")


@pytest.mark.slow
def test_a_forget_batch_beside_a_retain_batch_is_shared_right(configure, toys: Path) -> None:
    """Shares of the two halves are unequal, and at the end of a round too small to be shared out."""
    models = []
    for devices in (1, 2):
        output = toys / f"both{devices}"
        config = configure(f"output={output}", *EXACT, f"trainer.devices={devices}", "task=sample", "task.percent=9")
        config["method"] = {"name": "both", "requests": ["sample"], "_target_": "toy_team.Both"}
        pipeline = Pipeline(config, Store(output))
        models.append(load_file(pipeline.unlearn(pipeline.train("original")).folder / "weights.safetensors"))
    start = load_file(pipeline.train("original").folder / "weights.safetensors")
    assert all(float((models[0][name] - models[1][name]).abs().max()) < 1e-9 for name in start)
    assert any(float((models[0][name] - start[name]).abs().max()) > 1e-3 for name in start)


@pytest.mark.slow
def test_replicas_that_differ_fail_their_job(configure, toys: Path) -> None:
    fails(configure, toys, "diverge", RankError, "replicas of the model differ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("mistake", UserError, "^That number is wrong: take another.$"),
        ("overflow", Diverged, "^The method failing_overflow diverged in pass 1 of 1: "),
    ],
)
def test_a_mistake_on_a_rank_is_the_sentence_of_its_job(
    how: str, error: type, words: str, configure, toys: Path
) -> None:
    fails(configure, toys, how, error, words)


@pytest.mark.parametrize("error", [UserError, NotApplicable, Diverged, OSError, ZeroDivisionError])
def test_an_error_of_a_rank_arrives_as_it_was(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def build(order: Order) -> None:
        raise error(28, "No space") if error is OSError else error("It is wrong.")

    monkeypatch.setattr(worker, "group", lambda *_: nullcontext())
    order = {"order": asdict(Order("original", {}, "", "", "", "", ""))}
    said = worker.answer(order, 1, None, queue.Queue(), build, lambda trainer: None)  # type: ignore[arg-type]
    team = team_of(2)
    with pytest.raises(RankError if error is ZeroDivisionError else error, match=r"No space|It is wrong") as caught:
        team._raise({1: json.loads(json.dumps(said))})
    if isinstance(caught.value, OSError):
        assert caught.value.errno == 28
    if isinstance(caught.value, RankError):
        assert "rank 1" in str(caught.value) and "ZeroDivisionError" in str(caught.value)


@pytest.mark.slow
def test_a_sweep_of_several_processes_never_mixes_its_jobs(command, small, toys: Path, tmp_path: Path) -> None:
    """The trap: rank 1 fails in the first job, and its rank 0 goes on and meets rank 1 of the second job."""
    sweep = ["-m", *small, *EXACT, "method=failing_raise,finetune"]
    more = ["trainer.devices=2", f"output={tmp_path / 'together'}", "--config-dir", str(toys / "conf")]
    together = command(*sweep, *more, env={"PYTHONPATH": str(toys)})
    assert together.returncode == 1
    assert (
        "rank 1" in together.stderr
        and "broken on purpose" in together.stderr
        and "1 of 2 jobs failed" in together.stderr
    )
    alone = command(*small, *EXACT, "method=finetune", f"output={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    for stage in ("original", "oracle", "unlearned"):
        (mine,) = (tmp_path / "together").glob(f"{stage}/*/weights.safetensors")
        (theirs,) = (tmp_path / "alone").glob(f"{stage}/*/weights.safetensors")
        assert mine.parent.name == theirs.parent.name
        weights = load_file(theirs)
        for name, tensor in load_file(mine).items():
            assert float((tensor - weights[name]).abs().max()) < 1e-9


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
def test_torchrun_starts_the_same_run(small, tmp_path: Path) -> None:
    """Two pretended machines with a process each; several processes of one machine are what tests/test_slurm.py has."""
    nodes, devices = 2, 1
    options = [
        f"--nnodes={nodes}",
        f"--nproc-per-node={devices}",
        "--master-addr=127.0.0.1",
        f"--master-port={free_port()}",
    ]
    arguments = [
        *small,
        "method=none",
        "train.epochs=1",
        f"trainer.devices={devices}",
        f"trainer.nodes={nodes}",
        f"output={tmp_path}",
    ]
    line = [sys.executable, "-m", "torch.distributed.run", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    starts = [
        subprocess.Popen(
            [*line, f"--node-rank={node}", str(ROOT / "run.py"), *arguments],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(nodes)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=200)[0] for process in starts]
    assert [process.returncode for process in starts] == [0] * nodes, outputs
    assert "".join(outputs).count("Result: ") == 1  # task 0 alone speaks
    assert len(list(tmp_path.glob("result/*/DONE"))) == 1
    (meeting,) = tmp_path.glob("peers/*.json")
    assert meeting.stat().st_mode & 0o077 == 0


def test_more_tasks_than_devices_is_one_sentence(command, small, tmp_path: Path) -> None:
    run = command(
        *small,
        f"output={tmp_path}",
        env={"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"},
    )
    assert run.returncode == 1 and "3 ranks were started for 1 devices" in run.stderr and "Traceback" not in run.stderr
    sweep = ["-m", *small, f"output={tmp_path}", "launch=joblib", "trainer.devices=2", "seed=0,1"]
    at_once = command(*sweep, env={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"})
    assert at_once.returncode == 1 and "launch=local" in at_once.stderr and "Traceback" not in at_once.stderr
    alone = command(*small, f"output={tmp_path}", "trainer.nodes=2")
    assert alone.returncode == 1 and "trainer.nodes=1" in alone.stderr


def test_more_processes_than_the_cores_can_bear_are_refused() -> None:
    trainer = {"accelerator": "cpu", "nodes": 1}
    cores = os.cpu_count() or 1
    group.check_ranks({**trainer, "devices": 4 * cores}, JobRank())
    with pytest.raises(UserError, match=rf"would start {99 * cores} processes here: use at most {4 * cores}\."):
        group.check_ranks({**trainer, "devices": 99 * cores}, JobRank())


def test_ranks_are_read_from_the_environment() -> None:
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    step = {**batch, "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    assert job_rank({}) == JobRank() and job_rank(batch) == JobRank()  # a batch script is not a step
    assert job_rank(step) == JobRank(3, 4, 1, "slurm-7-0-0")
    requeued = job_rank({**step, "SLURM_RESTART_COUNT": "2"})
    assert requeued.job != job_rank(step).job  # so that ranks of different starts never meet
    elastic = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "x"}
    elastic |= {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert job_rank({**step, **elastic}) == JobRank(1, 2, 0, "torchrun-x-node1-29500")
    local = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "9"}
    local |= {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2"}
    assert job_rank(local) == JobRank(1, 2, 0, "local-9")
    assert job_rank({**local, "SPEECHFORGET_START": "1"}).job == "local-9-1"


def test_a_worker_ends_when_its_team_is_gone() -> None:
    from multiprocessing.connection import Listener

    with Listener(("127.0.0.1", 0), authkey=b"secret") as listener:
        process = start_worker(0, 0, *listener.address, "secret")
        connection = listener.accept()
        assert group.receive(connection)["rank"] == 0  # type: ignore[index]
        process.send_signal(
            signal.SIGTERM
        )  # a cluster warns every process of a job; the one that runs the command decides
        time.sleep(0.3)
        assert process.poll() is None
        connection.close()
    assert process.wait(10) == 3


def test_a_worker_whose_team_never_answers_gives_up() -> None:
    """As after a kill between the connection and the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        code = f"worker.PATIENCE_S = 0.5; worker.work(1, '127.0.0.1', {port}, None, None)"
        line = [sys.executable, "-c", f"from speechforget.distributed import worker; {code}"]
        done = subprocess.run(line, env={**os.environ, "SPEECHFORGET_SECRET": "x"}, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == LOST


def test_a_closed_team_accepts_no_connection(tmp_path: Path) -> None:
    """A thread left at the door would let in the workers of the next team, and ask them for the wrong secret."""
    closed = group.Team(1, 1, JobRank(0, 1, 0, ""), str(tmp_path))
    closed.close()
    assert not closed.acceptor.is_alive()


def team_of(size: int) -> group.Team:
    """A team without processes."""
    one = group.Team.__new__(group.Team)
    one.members = {rank: group.Member(rank, None, f"rank {rank}") for rank in range(size)}  # type: ignore[arg-type]
    return one


@given(st.lists(st.sampled_from(["done", "user", "error", "consequence", "lost"]), min_size=2, max_size=5))
def test_of_several_failures_the_cause_is_named(kinds: list[str]) -> None:
    one = team_of(len(kinds))
    messages = {
        "user": {"failed": "user", "reason": "mistake"},
        "error": {"failed": "error", "reason": "own", "stack": "ZeroDivisionError"},
        "consequence": {
            "failed": "error",
            "reason": "Connection closed by peer",
            "stack": "RuntimeError: gloo: Connection closed by peer",
        },
        "lost": {"failed": "lost", "reason": "killed by SIGKILL"},
    }
    failures = {rank: messages[kind] for rank, kind in enumerate(kinds) if kind != "done"}
    if not failures:
        return
    with pytest.raises((RankError, UserError)) as caught:
        one._raise(failures)
    cause = next(kind for kind in ("user", "lost", "error", "consequence") if kind in kinds)
    assert messages[cause]["reason"] in str(caught.value)
