"""A folder is finished, unfinished or damaged, and the store always knows which; failed writes are one sentence."""

import errno
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speechforget.errors import UserError
from speechforget.store import Artefact, Store, once, read_done, verified
from speechforget.store.manifest import damage, strike, write_done


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


def test_a_temporary_file_of_a_killed_process_is_no_part_of_an_artefact(tmp_path: Path) -> None:
    def interrupted(folder: Path, key: str) -> None:
        (folder / ".value.4711").write_text("half")
        build(folder, key)

    artefact = Store(tmp_path).produce("stage", "name", {}, interrupted)
    assert not (artefact.folder / ".value.4711").exists()
    assert ".value.4711" not in json.loads((artefact.folder / "DONE").read_text())["files"]


HARMS: list[tuple[str, Callable[[Path], None]]] = [
    ("weights", lambda path: os.truncate(path, 999)),
    ("weights", Path.unlink),
    ("parts/one.csv", Path.unlink),
]


@pytest.mark.parametrize(("name", "harm"), HARMS)
def test_a_damaged_folder_is_an_error_that_names_folder_file_and_fix(name: str, harm, tmp_path: Path) -> None:
    artefact = made(tmp_path)
    harm(artefact.folder / name)
    with pytest.raises(UserError) as caught:
        made(tmp_path)
    assert all(words in str(caught.value) for words in (str(artefact.folder), name, "remove the folder"))


def test_a_done_that_was_cut_off_is_an_unfinished_folder(tmp_path: Path) -> None:
    artefact = made(tmp_path)
    done = artefact.folder / "DONE"
    done.write_text("{")
    assert made(tmp_path).built and not made(tmp_path).built
    for text in ("12", "null", '{"key": "abc"}'):
        done.write_text(text)
        assert read_done(artefact.folder) is None
    made(tmp_path)
    assert read_done(artefact.folder) is not None
    for length in reversed(range(len(done.read_text().rstrip()))):
        os.truncate(done, length)
        assert read_done(artefact.folder) is None, length


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
    assert not made(tmp_path).built  # this cheap check compares sizes only
    with pytest.raises(UserError, match="weights has other bytes"):
        verified(artefact.folder, "weights")
    assert verified(artefact.folder, "parts/one.csv").exists()
    with pytest.raises(UserError, match="other is not recorded in DONE"):
        verified(artefact.folder, "other")
    (artefact.folder / "DONE").unlink()
    with pytest.raises(UserError, match="not finished"):
        verified(artefact.folder, "weights")


def test_a_failed_build_can_be_resumed(tmp_path: Path) -> None:
    def fail(folder: Path, key: str) -> None:
        (folder / "checkpoint").write_text("half way")
        raise ZeroDivisionError

    def resume(folder: Path, key: str) -> None:
        assert (folder / "checkpoint").read_text() == "half way"

    with pytest.raises(ZeroDivisionError):
        Store(tmp_path).produce("stage", "name", {}, fail)
    assert not list(tmp_path.rglob("DONE")) and not list(tmp_path.rglob("*.lock"))
    assert Store(tmp_path).produce("stage", "name", {}, resume).built


def test_a_damaged_cache_is_built_again(tmp_path: Path) -> None:
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


def test_an_unknown_lock_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose flock or lease"):
        Store(tmp_path, "flok").produce("stage", "name", {}, build)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator:
    """Return mount(options), which mounts a small file system in memory; skip if that is not allowed."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mounted(options: str) -> Path:
        run = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if run.returncode:
            pytest.skip(f"no file system can be mounted here: {run.stderr.strip()}")
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    yield mounted
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_a_read_only_output_can_be_used(lock: str, mount, tmp_path: Path) -> None:
    root = mount("size=1m")
    artefact = made(root)
    once(root / "cache", lock, lambda: None)
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    found = Store(root, lock).produce("stage", "name", {"a": 1}, lambda folder, key: pytest.fail("built again"))
    once(root / "cache", lock, lambda: pytest.fail("built again"))
    assert found.folder == artefact.folder and not found.built
    assert verified(found.folder, "weights").exists()
    with pytest.raises(UserError, match=r"Cannot write to .*other-.*output=<folder>"):
        Store(root, lock).produce("stage", "other", {"a": 2}, build)
    with pytest.raises(UserError, match=r"cannot be written .*cache=FOLDER"):
        once(root / "more", lock, lambda: None)


@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_a_full_disk_is_one_sentence_and_finishes_nothing(lock: str, mount) -> None:
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


def test_each_failing_call_gives_the_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace system calls by failing ones, because permissions do not stop the root user of a container."""
    calls = ("os.open", "os.mkdir", "os.fsync", "os.rename", "pathlib.Path.write_text")
    answers = {errno.EROFS: "output=<folder>", errno.EACCES: "output=<folder>", errno.ENOSPC: "make room"}
    for call, (number, words) in itertools.product(calls, answers.items()):

        def refuse(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        root = tmp_path / f"{call} {number}"
        root.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(call, refuse)
            if call == "os.rename":
                patch.setattr("pathlib.Path.replace", refuse)
            with pytest.raises(UserError, match=words):
                Store(root).produce("stage", "name", {}, lambda folder, key: None)
        assert not list(root.rglob("DONE")), call


def test_an_unreadable_file_elsewhere_is_another_mistake(tmp_path: Path) -> None:
    def read(folder: Path, key: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/recordings/yes.wav")

    with pytest.raises(PermissionError, match=r"yes\.wav"):
        Store(tmp_path).produce("stage", "name", {}, read)


def test_a_struck_file_is_gone_and_its_folder_stays_finished(tmp_path: Path) -> None:
    (tmp_path / "forget.txt").write_text("a\n")
    (tmp_path / "result.json").write_text("{}")
    write_done(tmp_path, "key", lambda: None)
    before = read_done(tmp_path)
    for _ in range(2):  # a killed purge is repeated
        strike(tmp_path, "forget.txt")
    after = read_done(tmp_path)
    assert before is not None and after is not None and not (tmp_path / "forget.txt").exists()
    assert (
        after["purged"] == {"forget.txt": before["files"]["forget.txt"]} and list(damage(tmp_path, after, True)) == []
    )
    (tmp_path / "forget.txt").write_text("a\n")  # killed between manifest and file
    strike(tmp_path, "forget.txt")
    assert not (tmp_path / "forget.txt").exists() and read_done(tmp_path) == after
