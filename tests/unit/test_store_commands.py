"""`python -m speechforget.store` lists, shows, verifies and removes artefacts, but never what a result needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechforget.cli.store import main
from speechforget.store import Artefact, Store, claims, locked, once
from speechforget.store.gc import removable, remove


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_S", 1.5)


def fill(folder: Path, key: str) -> None:
    (folder / "weights").write_bytes(b"x" * 2000)
    (folder / "cost.json").write_text(json.dumps({"seconds": 12.5, "forward": 3}))


def run(root: Path, seed: int = 0) -> dict[str, Artefact]:
    """Build the artefacts of a small run."""
    store = Store(root)
    made = {"split": store.produce("split", "toy-word", {"corpus": "f" * 64}, fill)}
    made["original"] = store.produce("original", f"toy-seed{seed}", {"split": made["split"].key, "seed": seed}, fill)
    made["oracle"] = store.produce(
        "oracle", f"toy-seed{seed}", {"split": made["split"].key, "seed": seed, "without": "e" * 64}, fill
    )
    made["unlearned"] = store.produce("unlearned", f"none-toy-seed{seed}", {"original": made["original"].key}, fill)
    for name in ("original", "oracle", "unlearned"):
        made[f"scores {name}"] = store.produce(
            "scores", name, {"model": made[name].key, "split": made["split"].key}, fill
        )
    models = {name: made[name].key for name in ("original", "oracle", "unlearned")}
    inputs = {"models": models, "scores": {name: made[f"scores {name}"].key for name in models}}
    made["result"] = store.produce("result", f"none-toy-seed{seed}", inputs, fill)
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    run(root)
    return root


def folder_of(root: Path, stage: str) -> Path:
    return next(path.parent for path in sorted(root.glob(f"{stage}/*/DONE")))


def test_ls_lists_the_graph_in_order(tmp_path: Path, capsys) -> None:
    made = run(tmp_path)
    (tmp_path / "cache" / "audio" / "0123").mkdir(parents=True)
    with locked(tmp_path / "oracle" / "toy-seed1-0123456789ab"):
        (tmp_path / "oracle" / "toy-seed1-0123456789ab").mkdir()
        (tmp_path / "unlearned" / "none-toy-seed1-0123456789ab").mkdir()
        (made["scores oracle"].folder / "weights").unlink()
        assert main(["ls", "--output", str(tmp_path)]) == 0
        assert main(["ls", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    table, _, text = out.partition("[")
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "split",
        "original",
        "oracle",
        "oracle",
        "unlearned",
        "unlearned",
        *["scores"] * 3,
        "result",
    ]
    assert f"in use: process {os.getpid()}" in lines[3] + lines[4]
    assert sum("unfinished" in line for line in lines) == 1 and sum("damaged" in line for line in lines) == 1
    rows = {row["folder"]: row for row in json.loads("[" + text)}
    split, original = rows[str(made["split"].folder)], rows[str(made["original"].folder)]
    assert split["results"] == original["results"] == 1 and original["seconds"] == 12.5
    assert original["parents"] == [split["key"]] and split["key"] == made["split"].key
    assert split["bytes"] == sum(path.stat().st_size for path in made["split"].folder.iterdir())


def test_show_lists_parents_and_children(tmp_path: Path, capsys) -> None:
    made = run(tmp_path)
    assert main(["show", made["unlearned"].key[:7], "--output", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    assert main(["show", str(made["unlearned"].folder), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    above, _, below = first.partition("used by")
    assert made["original"].folder.name in above and made["split"].folder.name in above
    assert made["result"].folder.name in below and made["oracle"].folder.name not in first
    for words in (made["unlearned"].key, "weights", "seconds 12.5", "commit", '"original"'):
        assert words in first


def test_a_key_that_names_none_or_many_is_one_sentence(finished: Path, tmp_path: Path, capsys) -> None:
    twin = folder_of(finished, "oracle").name[-12:][0] + "0123456789a"
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "original" / f"toy-seed9-{twin}").mkdir()
    for asked, words in (("zzz", "No artefact is named 'zzz'"), (twin[0], "give more digits")):
        assert main(["show", asked, "--output", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
    assert main(["ls", "--output", str(tmp_path / "nowhere")]) == main(["ls", str(tmp_path / "nowhere")]) == 1
    assert "There is no folder" in capsys.readouterr().err


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


HARMS = {
    "a flipped bit": (lambda folder: flip(folder / "weights"), "weights has other bytes than recorded"),
    "a cut file": (lambda folder: os.truncate(folder / "weights", 7), "weights has 7 bytes instead of 2000"),
    "a lost file": (lambda folder: (folder / "cost.json").unlink(), "cost.json is missing"),
    "edited inputs": (lambda folder: edit(folder / "inputs.json", '"seed": 0', '"seed": 9'), "the folder is named"),
    "no inputs": (lambda folder: (folder / "inputs.json").unlink(), "inputs.json is missing"),
    "another key": (lambda folder: edit(folder / "DONE", '"key": "', '"key": "0'), "DONE records the key"),
    "another name": (
        lambda folder: folder.rename(folder.with_name("toy-seed0-0123456789ab")),
        "the folder is named 0123456789ab",
    ),
}


def test_verify_finds_each_kind_of_damage(finished: Path, tmp_path: Path, capsys) -> None:
    assert main(["verify", "--output", str(finished)]) == main(["verify", str(finished)]) == 0
    assert "8 artefacts checked, 0 bad." in capsys.readouterr().out
    for harm, (do, words) in HARMS.items():
        root = Path(shutil.copytree(finished, tmp_path / harm))
        do(folder_of(root, "original"))
        assert main(["verify", "--output", str(root)]) == 1, harm
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(str(root / "original")) and words in lines[0]
        assert lines[1] == "8 artefacts checked, 1 bad."
        assert main(["verify", folder_of(root, "oracle").name[-12:], "--output", str(root)]) == 0
        capsys.readouterr()


def test_gc_without_a_terminal_needs_yes(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(tmp_path)
    other = Store(tmp_path).produce("original", "toy-seed9", {"split": made["split"].key, "seed": 9}, fill)
    (tmp_path / "oracle" / "toy-seed9-0123456789ab").mkdir()
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115, PTH123
    assert main(["gc", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "no terminal" in printed.err and str(other.folder) in printed.out and "unfinished" in printed.out
    assert other.folder.exists()
    assert main(["gc", "--output", str(tmp_path), "--unreferenced", "--yes"]) == 0
    assert "Removed 1 folder, " in capsys.readouterr().out
    assert not other.folder.exists() and (tmp_path / "oracle" / "toy-seed9-0123456789ab").exists()
    assert main(["gc", "--output", str(tmp_path), "--yes"]) == 0
    assert not (tmp_path / "oracle" / "toy-seed9-0123456789ab").exists()
    assert all(artefact.folder.exists() for artefact in made.values())
    assert main(["gc", str(tmp_path)]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.lock"))


def test_gc_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Store(tmp_path).produce("original", "toy", {}, fill)
    asked: list[str] = []
    answers = iter(["", "no", "y"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or next(answers))
    for left in (True, True, False):
        assert main(["gc", "--output", str(tmp_path)]) == 0
        assert re.fullmatch(r"Remove 1 folder, \d\.\d kB\? \[y/N\] ", asked.pop())
        assert other.folder.exists() == left


@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_gc_keeps_what_is_being_built_and_its_parents(lock: str, tmp_path: Path, capsys) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom speechforget.store import Store\n"
        "def build(folder, key):\n    print('building', flush=True)\n    sys.stdin.read()\n"
        "Store(Path(sys.argv[1]), sys.argv[2]).produce('unlearned', 'toy', {'original': sys.argv[3]}, build)\n"
    )
    original = Store(tmp_path).produce("original", "toy", {"seed": 0}, fill)
    young = Store(tmp_path).produce("oracle", "toy", {"seed": 0}, fill)
    line = [sys.executable, "-c", code, str(tmp_path), lock, original.key]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        assert main(["gc", "--output", str(tmp_path), "--yes"]) == 0
        assert "1 more unreferenced artefacts are kept: they are younger than 7 days" in capsys.readouterr().out
        assert original.folder.exists() and young.folder.exists()
        assert main(["gc", "--output", str(tmp_path), "--yes", "--days", "0"]) == 0
        assert original.folder.exists() and not young.folder.exists()
        process.stdin.close()
    assert process.returncode == 0
    assert list(tmp_path.glob("unlearned/*/DONE"))


def test_gc_keeps_what_is_needed_since_it_listed_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    original, oracle = (store.produce("original", "toy", {"seed": seed}, fill) for seed in (0, 1))
    (tmp_path / "scores" / "toy-0123456789ab").mkdir(parents=True)
    chosen, _ = removable(tmp_path, unreferenced_only=False, days=7)
    assert len(chosen) == 3
    store.produce("result", "toy", {"models": {"original": original.key}}, fill)
    with locked(tmp_path / "scores" / "toy-0123456789ab"):
        gone, kept = remove(tmp_path, chosen)
    assert [each.path for each in gone] == [oracle.folder]
    assert {each.path for each in kept} == {original.folder, tmp_path / "scores" / "toy-0123456789ab"}


def age(days: float, *paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - days * 86400,) * 2)


DEAD = {"kind": "lease", "host": "elsewhere", "pid": 1, "token": "t", "seconds": 0.5}
CACHES = ("cache/audio", "cache/audio-on-demand", "cache/espeak")


def test_gc_removes_locks_of_dead_processes(tmp_path: Path) -> None:
    original = Store(tmp_path).produce("result", "toy", {}, fill).folder
    stale = [original.with_name(f"{original.name}.lock"), tmp_path / "scores" / "gone-0123456789ab.lock"]
    for cache in CACHES:
        once(tmp_path / cache / "built", "flock", lambda: None)
        stale += [tmp_path / cache / "built.lock", tmp_path / cache / "gone.lock"]
    (tmp_path / "scores").mkdir()
    for number, path in enumerate(stale):
        path.write_text(json.dumps(DEAD) if number % 2 else json.dumps({**DEAD, "kind": "flock"}))
        age(10, path)
    stale.append(original.with_name(f"{original.name}.holder"))
    stale[-1].write_text("process 1 on elsewhere")
    with locked(tmp_path / "cache" / "audio" / "held"):
        assert main(["gc", "--output", str(tmp_path), "--yes"]) == 0
        assert (tmp_path / "cache" / "audio" / "held.lock").exists()
    assert not [path for path in stale if path.exists()]
    assert original.exists() and all((tmp_path / cache / "built").exists() for cache in CACHES)


def test_gc_removes_unused_and_abandoned_caches(tmp_path: Path, capsys) -> None:
    parents = (*CACHES, "sweeps", "peers")
    for name, days in (("old", 10), ("new", 1)):
        for folder in (tmp_path / parent / name for parent in parents):
            once(folder, "flock", lambda folder=folder: (folder / "file").write_text("x"))
            age(days, *folder.iterdir(), folder)
    for cache in CACHES:
        (tmp_path / cache / "abandoned").mkdir()
        (tmp_path / cache / "abandoned.lock").touch()
        (tmp_path / cache / "in use").mkdir()
        (tmp_path / cache / "unfinished").mkdir()
    with locked(tmp_path / CACHES[0] / "in use"), locked(tmp_path / CACHES[1] / "in use", "lease"):
        (tmp_path / CACHES[2] / "in use").rmdir()
        assert main(["gc", "--output", str(tmp_path), "--yes"]) == 0
    out = capsys.readouterr().out
    assert "lengths and hashes of recordings, unused for 10 days" in out and "unfinished, and nobody is building" in out
    left = {parent: sorted(path.name for path in (tmp_path / parent).iterdir()) for parent in parents}
    assert left == {parent: ["in use", "new"] if parent in CACHES[:2] else ["new"] for parent in parents}


EDGES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@settings(max_examples=15)
@given(EDGES, st.sets(st.integers(0, 6)), st.sets(st.integers(0, 6)))
def test_gc_removes_exactly_what_no_result_needs(
    edges: list[tuple[int, int]], results: set[int], unfinished: set[int]
) -> None:
    """Parents of artefact n have smaller numbers; some artefacts are results, and some are unfinished."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("speechforget.store.manifest.sync", lambda path: None)
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr("speechforget.store.folder.provenance", dict)
        root = Path(folder)
        made: dict[int, Artefact] = {}
        parents = {number: {low for low, high in edges if high == number and low < number} for number in range(7)}
        for number in range(7):
            inputs = {"number": number, "deep": [{"of": [made[parent].key for parent in sorted(parents[number])]}]}
            made[number] = Store(root).produce(
                "result" if number in results else "original", "toy", inputs, lambda folder, key: None
            )
        for number in unfinished:
            (made[number].folder / "DONE").unlink()
        needed = set(results - unfinished)
        for number in reversed(range(7)):
            needed |= parents[number] if number in needed else set()
        assert main(["gc", "--output", folder, "--yes"]) == 0
        assert {number for number in range(7) if made[number].folder.exists()} == needed
