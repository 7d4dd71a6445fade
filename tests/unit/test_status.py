"""What `speechforget status` says: finished, being built, waiting, stopped, damaged, and the jobs of sweeps."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from speechforget.cli.status import main, progress, read_notes
from speechforget.progress import bar, note, noted
from speechforget.store import Store
from speechforget.store.locks import lock_file, locked


@pytest.fixture
def output(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    store.produce("original", "word", {"seed": 0}, lambda folder, key: (folder / "weights").write_text("1") and None)
    return tmp_path


def said(output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(output)]) == 0
    return capsys.readouterr().out


def test_it_counts_what_is_finished_and_names_what_stopped_or_is_damaged(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cut_off := output / "oracle" / "word-0123456789ab").mkdir(parents=True)
    (cut_off / "inputs.json").write_text('{"stage": "oracle", "inputs": {}}')
    text = said(output, capsys)
    assert "1 original" in text and f"oracle/{cut_off.name}" in text.partition("stopped before the end")[2]
    (finished,) = (output / "original").glob("*/weights")
    finished.write_text("changed")
    assert "weights" in said(output, capsys).partition("damaged (1)")[2]


def test_it_shows_who_builds_what_and_how_far_that_is(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = output / "unlearned" / "scrub-word-0123456789ab"
    folder.mkdir(parents=True)
    with noted(output, "method=scrub"), locked(folder):
        note(doing="scrub", n=30, total=40, unit="step", elapsed=60.0, rate=0.5)
        text = said(output, capsys)
        assert f"unlearned/{folder.name}: process {os.getpid()} on {socket.gethostname()} since" in text
        assert "scrub, 75 % of 40 steps, 0:20 left" in text and "other processes" not in text
    assert not lock_file(folder).exists() and not (output / "running").exists()
    assert f"unlearned/{folder.name}" in said(output, capsys).partition("stopped before the end")[2]


def test_a_process_that_waits_says_for_what(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechforget.progress.SECONDS_BETWEEN_NOTES", 0.0)
    folder = output / "unlearned" / "scrub-word-0123456789ab"
    folder.mkdir(parents=True)
    waiting: list[str] = []

    def watch() -> None:
        while not waiting:
            waiting.extend(found["doing"] for found in read_notes(output) if "waits" in str(found["doing"]))
            time.sleep(0.01)

    code = "import sys, time; from pathlib import Path; from speechforget.store.locks import locked\n"
    code += "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        holder.stdout.readline()
        watcher = threading.Thread(target=lambda: (watch(), holder.stdin.close()))  # type: ignore[union-attr]
        watcher.start()
        with noted(output, "method=scrub"), locked(folder):
            watcher.join()
    assert waiting == [f"waits for {folder.name}"]


def test_a_bar_notes_what_it_shows(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechforget.progress.SECONDS_BETWEEN_NOTES", 0.0)
    monkeypatch.setattr("speechforget.progress.SECONDS_BETWEEN_LINES", 0.0)
    with noted(output, "method=scrub seed=1"), bar(total=4, description="oracle", unit="step") as steps:
        steps.update(2)
        (found,) = read_notes(output)
        assert (found["doing"], found["n"], found["total"], found["job"]) == ("oracle", 2, 4, "method=scrub seed=1")
    assert read_notes(output) == []


def test_the_dead_are_left_out_and_the_silent_are_named(output: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = {"doing": "oracle", "job": "", "updated": time.time() - 600}
    (output / "running").mkdir()
    for host, process in ((socket.gethostname(), gone.pid), ("elsewhere", 1)):
        (output / "running" / f"{host}.json").write_text(json.dumps({"host": host, "pid": process, **old}))
    (output / "running" / "cut.json").write_text('{"host": ')
    (found,) = read_notes(output)
    assert found["host"] == "elsewhere" and progress(found) == "oracle, no word for 10:00"


def test_sweeps_are_counted_and_their_failures_explained(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep := output / "sweeps" / "0a1b").mkdir(parents=True)
    for number, (word, reason) in enumerate((("done", ""), ("done", ""), ("failed", "The disk is full."))):
        outcome = {"overrides": [f"seed={number}"], "outcome": word, "objective": None, "reason": reason}
        (sweep / f"{number}.json").write_text(json.dumps(outcome))
    text = said(output, capsys)
    assert "0a1b: 2 done, 1 failed" in text and "seed=2: The disk is full." in text


def test_watch_ends_when_nothing_runs_and_a_wrong_folder_is_one_sentence(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(output), "--watch", "--seconds", "0.01"]) == 0
    assert main([str(output / "typo")]) == 1
    assert "There is no folder" in capsys.readouterr().err


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with noted(tmp_path / "file", "method=scrub"):
        note(doing="oracle")
    assert (tmp_path / "file").read_text() == ""
