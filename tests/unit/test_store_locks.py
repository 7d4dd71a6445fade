"""One process makes a folder, whichever lock there is; the others wait, and a dead one stops nobody."""

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

SHORT_S = 1.5  # of a lease in these tests
PATIENCE_S = 120.0  # for what takes a moment on an idle machine
KINDS = ("flock", "lease")
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", SHORT_S)


def until(true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def make(root: str, lock: str, log: str, pause: float) -> None:
    claims.LEASE_S = SHORT_S

    def build(folder: Path, key: str) -> None:
        with Path(log).open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        (folder / "half").write_text(str(os.getpid()))
        time.sleep(pause)
        (folder / "value").write_text(str(os.getpid()))

    Store(Path(root), lock).produce("stage", "name", {"seed": 1}, build)


@pytest.fixture
def maker(tmp_path: Path) -> Iterator:
    """maker(lock, pause) starts a process that makes the artefact."""
    started = []

    def start(lock: str, pause: float) -> multiprocessing.process.BaseProcess:
        process = spawn.Process(target=make, args=(str(tmp_path), lock, str(tmp_path / "log"), pause))
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def halves(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("stage/*/half"))


@pytest.mark.parametrize("locks", [("lease",) * 5, ("flock", "lease", "flock", "lease")], ids=["lease", "mixed"])
def test_processes_that_race_build_once(locks: tuple[str, ...], maker, tmp_path: Path) -> None:
    processes = [maker(lock, 0.3) for lock in locks]
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0] * len(locks)
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.glob("stage/*") if path.is_file()) == []


@pytest.mark.parametrize(
    "kinds", [("flock", "flock"), ("lease", "lease"), ("flock", "lease"), ("lease", "flock")], ids="-".join
)
def test_a_killed_holder_stops_nobody(kinds: tuple[str, str], maker, tmp_path: Path) -> None:
    first = maker(kinds[0], 60)
    until(lambda: halves(tmp_path))
    second = maker(kinds[1], 0)
    os.kill(first.pid, signal.SIGKILL)
    second.join(PATIENCE_S)
    assert second.exitcode == 0
    assert (halves(tmp_path)[0].parent / "value").read_text() == str(second.pid)
    assert not list(tmp_path.glob("stage/*.lock"))


def test_many_that_find_a_dead_lease_build_once(maker, tmp_path: Path) -> None:
    first = maker("lease", 60)
    until(lambda: halves(tmp_path))
    os.kill(first.pid, signal.SIGKILL)
    others = [maker("lease", 0.3) for _ in range(4)]
    for process in others:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in others] == [0] * 4
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_holder_that_was_stopped_finds_its_lease_lost_and_finishes_nothing(maker, tmp_path: Path, capfd) -> None:
    first = maker("lease", 3)
    until(lambda: halves(tmp_path))
    os.kill(first.pid, signal.SIGSTOP)
    second = maker("lease", 0)
    second.join(PATIENCE_S)
    assert second.exitcode == 0
    done = next(tmp_path.glob("stage/*/DONE"))
    record = done.read_bytes()
    os.kill(first.pid, signal.SIGCONT)
    first.join(PATIENCE_S)
    assert first.exitcode == 1
    assert "was not heard of" in capfd.readouterr().err
    assert done.read_bytes() == record


def test_a_living_lease_is_not_taken_over_whatever_the_clock_says(tmp_path: Path) -> None:
    holder, other = Lease(tmp_path / "x.lock"), Lease(tmp_path / "x.lock")
    assert holder.try_acquire()
    end = time.monotonic() + 1.3 * SHORT_S
    while time.monotonic() < end:
        os.utime(tmp_path / "x.lock", (0, 0))  # as if its clock stood in 1970
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
def test_an_empty_lock_file_stops_nobody_for_long(kind: type, tmp_path: Path) -> None:
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


def test_a_flock_on_a_file_that_was_removed_keeps_nobody_out(tmp_path: Path) -> None:
    """The race of a waiter that opened the file before its holder removed it."""
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
    assert json.loads((tmp_path / "x.lock").read_text())["pid"] == 77  # what is another's stays


@pytest.mark.parametrize("lock", KINDS)
def test_waiting_says_for_which_job_and_since_when(
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
        rf"Waiting for x, which job 12_3 \(process {process.pid} on \S+\) is making since \d\d:\d\d, \d s so far\."
    )
    assert re.fullmatch(expected, caplog.messages[0])
    assert who_holds(tmp_path / "x.lock") is None and not list(tmp_path.iterdir())


def test_the_trial_of_one_machine_gives_a_verdict_and_leaves_nothing(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "speechforget.store", "locks", str(tmp_path), "--seconds", "8"]
    processes = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert all(
        text.startswith("flock works on") and "only this machine was tested" in text and "srun -N2" in text
        for text in printed
    )
    assert all(len(text.splitlines()) == 1 for text in printed)
    assert not list(tmp_path.iterdir())


def both(folder: Path, reach: str, monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Two processes' parts, turn by turn; reach: how far the flock reaches."""
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
    [("cluster", "keeps node1 and node2 apart"), ("node", "use lock=lease"), ("none", "use lock=lease")],
)
def test_the_trial_of_two_machines(reach: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for trial in both(tmp_path, reach, monkeypatch):
        code, line = verdict(trial, tmp_path)
        assert code == 0 and words in line


def test_a_trial_without_others_is_no_verdict(tmp_path: Path) -> None:
    code, line = verdict(Trial(tmp_path, "node1"), tmp_path)
    assert code == 1 and "No verdict" in line
