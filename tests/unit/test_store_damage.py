"""A folder is whole, unfinished or damaged, and never taken for another of the three; where nothing can be written, a sentence says so."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechforget.errors import UserError
from speechforget.store import Artefact, Store, once, verified


def build(folder: Path, key: str) -> None:
    (folder / "weights").write_bytes(b"0123456789" * 100)
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / "one.csv").write_text("a,b\n")
    (folder / "csv").mkdir(exist_ok=True)
    (folder / "csv" / "metrics.csv").write_text("epoch\n")


def made(root: Path) -> Artefact:
    return Store(root).produce("stage", "name", {"a": 1}, build)


def test_done_records_every_file_but_the_trackers(tmp_path: Path) -> None:
    artefact = made(tmp_path)
    record = json.loads((artefact.folder / "DONE").read_text())
    assert record["key"] == artefact.key
    assert set(record["files"]) == {"weights", "parts/one.csv", "inputs.json", "about.json"}
    assert record["files"]["weights"]["bytes"] == 1000 and len(record["files"]["weights"]["sha256"]) == 64
    (artefact.folder / "csv" / "metrics.csv").write_text("epoch\n1\n")
    assert not made(tmp_path).built
    assert not list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob(".*"))


def test_what_a_killed_write_left_is_no_part_of_an_artefact(tmp_path: Path) -> None:
    def interrupted(folder: Path, key: str) -> None:
        (folder / ".value.4711").write_text("half")
        build(folder, key)

    artefact = Store(tmp_path).produce("stage", "name", {}, interrupted)
    assert not (artefact.folder / ".value.4711").exists()
    assert ".value.4711" not in json.loads((artefact.folder / "DONE").read_text())["files"]


@pytest.mark.parametrize("harm", ["truncate", "remove", "remove deep"])
def test_a_damaged_folder_is_an_error_that_names_folder_file_and_fix(harm: str, tmp_path: Path) -> None:
    artefact = made(tmp_path)
    name = "parts/one.csv" if harm == "remove deep" else "weights"
    if harm == "truncate":
        os.truncate(artefact.folder / name, 999)
    else:
        (artefact.folder / name).unlink()
    with pytest.raises(UserError) as caught:
        made(tmp_path)
    assert (
        str(artefact.folder) in str(caught.value)
        and name in str(caught.value)
        and "remove the folder" in str(caught.value)
    )


@pytest.mark.parametrize("text", ["", "{", '{"key": "', "12", "null", '{"key": "abc"}'])
def test_a_done_that_was_cut_off_is_an_unfinished_folder(text: str, tmp_path: Path) -> None:
    artefact = made(tmp_path)
    (artefact.folder / "DONE").write_text(text)
    assert made(tmp_path).built
    assert not made(tmp_path).built


def test_every_prefix_of_done_is_unfinished(tmp_path: Path) -> None:
    from speechforget.store import read_done

    artefact = made(tmp_path)
    whole = (artefact.folder / "DONE").read_text().rstrip()
    for length in range(len(whole)):
        (artefact.folder / "DONE").write_text(whole[:length])
        assert read_done(artefact.folder) is None
    (artefact.folder / "DONE").write_text(whole)
    assert read_done(artefact.folder) is not None


def test_a_done_of_another_artefact_is_damage(tmp_path: Path) -> None:
    artefact, other = made(tmp_path), Store(tmp_path).produce("stage", "name", {"a": 2}, build)
    record = json.loads((artefact.folder / "DONE").read_text())
    (artefact.folder / "DONE").write_text(json.dumps({**record, "key": other.key}))
    with pytest.raises(UserError, match="damaged, DONE records the key"):
        made(tmp_path)


def test_a_file_is_verified_by_its_bytes(tmp_path: Path) -> None:
    artefact = made(tmp_path)
    assert verified(artefact.folder, "weights").read_bytes()[:10] == b"0123456789"
    with (artefact.folder / "weights").open("r+b") as file:
        file.seek(500)
        file.write(b"X")
    assert not made(tmp_path).built  # the cheap look sees sizes only
    with pytest.raises(UserError, match="weights has other bytes"):
        verified(artefact.folder, "weights")
    assert verified(artefact.folder, "parts/one.csv").exists()
    with pytest.raises(UserError, match="never part of it"):
        verified(artefact.folder, "other")
    (artefact.folder / "DONE").unlink()
    with pytest.raises(UserError, match="not finished"):
        verified(artefact.folder, "weights")


def test_a_failed_build_is_left_to_be_resumed(tmp_path: Path) -> None:
    def fail(folder: Path, key: str) -> None:
        (folder / "checkpoint").write_text("half way")
        raise ZeroDivisionError

    def resume(folder: Path, key: str) -> None:
        assert (folder / "checkpoint").read_text() == "half way"

    with pytest.raises(ZeroDivisionError):
        Store(tmp_path).produce("stage", "name", {}, fail)
    assert not list(tmp_path.rglob("DONE")) and not list(tmp_path.rglob("*.lock"))
    assert Store(tmp_path).produce("stage", "name", {}, resume).built


def test_a_cache_that_lost_something_is_made_again(tmp_path: Path) -> None:
    calls = []

    def fill() -> None:
        calls.append(sorted(path.name for path in (tmp_path / "cache").iterdir()))
        (tmp_path / "cache" / "samples").write_bytes(b"12345")

    for harm in (
        lambda: None,
        lambda: os.truncate(tmp_path / "cache" / "samples", 3),
        (tmp_path / "cache" / "DONE").unlink,
        lambda: None,
    ):
        if calls:
            harm()
        once(tmp_path / "cache", "flock", fill)
    assert calls == [[], [], []]
    assert not list(tmp_path.rglob("*.lock"))


def test_an_unknown_lock_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose flock or lease"):
        Store(tmp_path, "flok").produce("stage", "name", {}, build)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator:
    """mount(options) -> a small file system of its own, where that is allowed."""
    place = tmp_path / "mounted"
    place.mkdir()

    def mounted(options: str) -> Path:
        run = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if run.returncode:
            pytest.skip(f"no file system can be mounted here: {run.stderr.strip()}")
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    yield mounted
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_a_read_only_output_is_used_and_not_written(lock: str, mount, tmp_path: Path) -> None:
    root = mount("size=1m")
    artefact = made(root)
    once(root / "cache", lock, lambda: None)
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    found = Store(root, lock).produce("stage", "name", {"a": 1}, lambda folder, key: pytest.fail("built"))
    once(root / "cache", lock, lambda: pytest.fail("built"))
    assert found.folder == artefact.folder and not found.built
    assert verified(found.folder, "weights").exists()
    with pytest.raises(UserError, match=r"Cannot write to .*other-.*output=<folder>"):
        Store(root, lock).produce("stage", "other", {"a": 2}, build)
    with pytest.raises(UserError, match=r"cannot be written .*cache=FOLDER"):
        once(root / "more", lock, lambda: None)


@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_a_full_disk_is_a_sentence_and_nothing_is_finished(lock: str, mount) -> None:
    root = mount("size=256k")

    def fill(folder: Path, key: str) -> None:
        with (folder / "weights").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    with pytest.raises(UserError, match=r"stage/name-.* is full: make room"):
        Store(root, lock).produce("stage", "name", {}, fill)
    assert not list(root.rglob("DONE"))
    (path,) = root.rglob("weights")
    path.unlink()
    assert Store(root, lock).produce("stage", "name", {}, build).built


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "output=<folder>"), (errno.EACCES, "output=<folder>"), (errno.ENOSPC, "make room")],
)
@pytest.mark.parametrize("call", ["os.open", "os.mkdir", "os.fsync", "os.rename", "pathlib.Path.write_text"])
def test_any_call_that_fails_so_gives_the_sentence(
    call: str, number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root user of a container is stopped by no permission, so the system's answers are put in place of its calls."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, refuse)
    if call == "os.rename":
        monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(UserError, match=words):
        Store(tmp_path).produce("stage", "name", {}, lambda folder, key: None)
    assert not list(tmp_path.rglob("DONE"))


def test_what_cannot_be_read_elsewhere_is_another_mistake(tmp_path: Path) -> None:
    def read(folder: Path, key: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/recordings/yes.wav")

    with pytest.raises(PermissionError, match=r"yes\.wav"):
        Store(tmp_path).produce("stage", "name", {}, read)
