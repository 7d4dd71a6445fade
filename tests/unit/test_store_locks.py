"""With either lock, one process builds a folder, the others wait, and a dead one blocks nobody."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speechforget.errors import UserError
from speechforget.store import Store, check_held, claims, locked
from speechforget.store.claims import Flock, Lease
from speechforget.store.holders import who_holds
from speechforget.store.trial import Trial, verdict

# Seconds of a lease in these tests.
SHORT_S = 1.5
# Long enough for a busy machine.
PATIENCE_S = 120.0
KINDS = ("flock", "lease")
# Like spawn, but imports are shared: each process starts in milliseconds.
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["pytest", "speechforget.store.trial"])


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", SHORT_S)


def until(true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def produce(root: str, lock: str, pause: float) -> None:
    claims.LEASE_S = SHORT_S

    def build(folder: Path, key: str) -> None:
        with (Path(root) / "log").open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        (folder / "half").write_text(str(os.getpid()))
        time.sleep(pause)
        (folder / "value").write_text(str(os.getpid()))

    try:
        Store(Path(root), lock).produce("stage", "name", {"seed": 1}, build)
    except UserError as error:
        (Path(root) / "error").write_text(str(error))
        sys.exit(1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Return start(lock, pause), which starts a process that builds the artefact."""
    started = []

    def start(lock: str, pause: float) -> multiprocessing.process.BaseProcess:
        process = forkserver.Process(target=produce, args=(str(tmp_path), lock, pause))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def halves(root: Path) -> list[Path]:
    return list(root.glob("stage/*/half"))


def builds(root: Path) -> int:
    return len((root / "log").read_text().splitlines())


RACES = [("flock",) * 3, ("lease",) * 3, ("flock", "lease", "flock", "lease")]


@pytest.mark.parametrize("locks", RACES, ids=["flock", "lease", "mixed"])
def test_processes_that_race_build_once(locks: tuple[str, ...], start, tmp_path: Path) -> None:
    processes = [start(lock, 0.3) for lock in locks]
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0] * len(locks)
    assert builds(tmp_path) == 1
    assert not list(tmp_path.glob("stage/*.lock"))


KILLED = [("flock", "flock"), ("flock", "lease"), ("lease", "flock")]


@pytest.mark.parametrize("kinds", KILLED, ids="-".join)
def test_a_killed_holder_blocks_nobody(kinds: tuple[str, str], start, tmp_path: Path) -> None:
    first = start(kinds[0], 60)
    until(lambda: halves(tmp_path))
    second = start(kinds[1], 0)
    os.kill(first.pid, signal.SIGKILL)
    second.join(PATIENCE_S)
    assert second.exitcode == 0 and builds(tmp_path) == 2
    assert (halves(tmp_path)[0].parent / "value").read_text() == str(second.pid)
    assert len(list(tmp_path.glob("stage/*/DONE"))) == 1 and not list(tmp_path.glob("stage/*.lock"))


@pytest.mark.slow
def test_one_of_many_takes_over_a_dead_lease(start, tmp_path: Path) -> None:
    first = start("lease", 60)
    until(lambda: halves(tmp_path))
    os.kill(first.pid, signal.SIGKILL)
    others = [start("lease", 0.3) for _ in range(3)]
    for process in others:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in others] == [0] * 3
    assert builds(tmp_path) == 2
    assert int((halves(tmp_path)[0].parent / "value").read_text()) in {process.pid for process in others}
    assert not list(tmp_path.glob("stage/*.lock"))


@pytest.mark.slow
def test_a_stopped_holder_loses_its_lease_and_finishes_nothing(start, tmp_path: Path) -> None:
    first = start("lease", 3)
    until(lambda: halves(tmp_path))
    os.kill(first.pid, signal.SIGSTOP)
    second = start("lease", 0)
    second.join(PATIENCE_S)
    assert second.exitcode == 0
    done = next(tmp_path.glob("stage/*/DONE"))
    record = done.read_bytes()
    os.kill(first.pid, signal.SIGCONT)
    first.join(PATIENCE_S)
    assert first.exitcode == 1
    assert "This process gave no heartbeat" in (tmp_path / "error").read_text()
    assert done.read_bytes() == record


def test_a_living_lease_is_not_taken_over_whatever_the_clock_says(tmp_path: Path) -> None:
    holder, other = Lease(tmp_path / "x.lock"), Lease(tmp_path / "x.lock")
    assert holder.try_acquire()
    end = time.monotonic() + 1.3 * SHORT_S
    while time.monotonic() < end:
        os.utime(tmp_path / "x.lock", (0, 0))  # as if the holder's clock showed 1970
        assert not other.try_acquire()
        time.sleep(0.05)
    holder.check()
    holder.release()
    assert other.try_acquire()
    other.release()
    assert not list(tmp_path.iterdir())


def test_a_dead_lease_from_the_future_expires(tmp_path: Path) -> None:
    record = {
        "kind": "lease",
        "host": "elsewhere",
        "pid": 1,
        "job": None,
        "started": "2100-01-01T00:00:00+0000",
        "token": "t",
        "seconds": SHORT_S,
    }
    (tmp_path / "x.lock").write_text(json.dumps(record))
    os.utime(tmp_path / "x.lock", (4e9, 4e9))
    lease = Lease(tmp_path / "x.lock")
    begun = time.monotonic()
    until(lease.try_acquire)
    assert time.monotonic() - begun >= SHORT_S
    lease.check()
    lease.release()


@pytest.mark.parametrize("kind", [Flock, Lease])
def test_an_empty_lock_file_soon_blocks_nobody(kind: type, tmp_path: Path) -> None:
    (tmp_path / "x.lock").touch()
    claim = kind(tmp_path / "x.lock")
    until(claim.try_acquire)
    claim.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Flock, Lease])
def test_within_a_process_one_claim_at_a_time(kind: type, tmp_path: Path) -> None:
    first, second = kind(tmp_path / "x.lock"), kind(tmp_path / "x.lock")
    assert first.try_acquire() and not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()


def test_a_flock_on_a_removed_file_excludes_nobody(tmp_path: Path) -> None:
    """A waiting process may open the file before its holder removes it."""
    first, second = Flock(tmp_path / "x.lock"), Flock(tmp_path / "x.lock")
    assert first.try_acquire()
    late = os.open(tmp_path / "x.lock", os.O_RDWR)
    first.release()
    fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not second._locks(late)
    os.close(late)


def test_a_lease_whose_file_vanished_or_changed_is_lost(tmp_path: Path) -> None:
    for harm in ((tmp_path / "x.lock").unlink, lambda: (tmp_path / "x.lock.other").rename(tmp_path / "x.lock")):
        (tmp_path / "x.lock.other").write_text(
            json.dumps({"kind": "lease", "host": "node5", "pid": 77, "token": "other", "seconds": SHORT_S})
        )
        with locked(tmp_path / "x", "lease"):
            check_held(tmp_path / "x")
            harm()
            with pytest.raises(UserError, match="took over x"):
                check_held(tmp_path / "x")
    assert json.loads((tmp_path / "x.lock").read_text())["pid"] == 77  # the file of another process stays


@pytest.mark.parametrize("lock", KINDS)
def test_a_waiting_process_logs_the_job_it_waits_for(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    caplog.set_level(logging.INFO)
    code = (
        "import sys\nfrom pathlib import Path\nfrom speechforget.store import locked\n"
        "with locked(Path(sys.argv[1]), sys.argv[2]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x"), lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        holder = who_holds(tmp_path / "x.lock")
        assert holder is not None and holder["pid"] == process.pid and holder["job"] == "12_3"

        class Let(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                process.stdin.close()

        let = Let()
        logging.getLogger("speechforget.store.locks").addHandler(let)
        with locked(tmp_path / "x", lock, patience_s=0.3):
            pass
        logging.getLogger("speechforget.store.locks").removeHandler(let)
    expected = (
        rf"Waiting for x: job 12_3 \(process {process.pid} on \S+\) has been building it since \d\d:\d\d, \d s so far\."
    )
    assert re.fullmatch(expected, caplog.messages[0])
    assert who_holds(tmp_path / "x.lock") is None and not list(tmp_path.iterdir())


def test_without_flock_a_lease_is_needed_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"has no flock .*use lock=lease"):
        Flock(tmp_path / "x.lock").try_acquire()
    (tmp_path / "x.lock").unlink()
    with locked(tmp_path / "x", "lease") as claim:
        claim.check()
        assert who_holds(tmp_path / "x.lock") is not None
    assert not list(tmp_path.iterdir())


def test_a_lease_that_cannot_be_renewed_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    lease = Lease(tmp_path / "x.lock", seconds=60)
    assert lease.try_acquire()
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", refuse)
        lease.check()  # the last heartbeat is recent, so no other process can have taken over
        lease._fresh -= 30  # as if half of the time had passed
        with pytest.raises(UserError, match="The lease on x could not be renewed"):
            lease.check()
    lease.release()
    assert not list(tmp_path.iterdir())


def test_the_trial_of_one_machine_gives_a_verdict_and_leaves_nothing(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "speechforget.store", "locks", str(tmp_path), "--seconds", "8"]
    processes = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert all(
        text.startswith("flock works on") and "Only this machine was tested" in text and "srun -N2" in text
        for text in printed
    )
    assert all(len(text.splitlines()) == 1 for text in printed)
    assert not list(tmp_path.iterdir())


def both(folder: Path, reach: str, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Take turns as two processes. reach: how far the flock reaches."""
    holder: list[Trial] = []
    current: list[Trial] = []

    def flock(*_: object) -> bool:
        if reach == "none":
            raise OSError
        if reach == "cluster" and holder:
            return False
        holder.extend(current)
        return True

    monkeypatch.setattr("speechforget.store.trial.try_flock", flock)
    trials = [Trial(folder, "node1"), Trial(folder, "node2")]
    for _ in range(40):
        for current[:] in ([trial] for trial in trials):
            current[0].turn(0)
    return trials


@pytest.mark.parametrize(
    ("reach", "words"),
    [
        ("cluster", "flock excludes processes on node1 and node2 from each other"),
        ("node", "use lock=lease"),
        ("none", "use lock=lease"),
    ],
)
def test_the_trial_of_two_machines(reach: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for trial in both(tmp_path, reach, monkeypatch):
        code, line = verdict(trial, tmp_path)
        assert code == 0 and words in line


def test_a_trial_without_others_gives_no_verdict(tmp_path: Path) -> None:
    code, line = verdict(Trial(tmp_path, "node1"), tmp_path)
    assert code == 1 and "No verdict" in line
