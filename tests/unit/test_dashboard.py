"""The dashboard names only keys that runs log, and the upload of offline runs continues where it ended."""

from __future__ import annotations

import importlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
dashboard, keys, files = (importlib.import_module(name) for name in ("dashboard", "tracking_keys", "wandb_files"))
views = importlib.import_module("dashboard_views")


def framed(contents: list[bytes]) -> bytes:
    """Write records as W&B does: cut at the ends of blocks of 32 KiB."""
    out = bytearray(b":W&B\x00\x00\x00")
    for content in contents:
        rest, first = content, True
        while first or rest:
            left = files.BLOCK - len(out) % files.BLOCK
            if left < 7:
                out += bytes(left)
                continue
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (files.WHOLE if first else files.LAST) if not rest else (files.FIRST if first else files.MIDDLE)
            out += struct.pack("<IHB", 0, len(piece), kind) + piece
            first = False
    return bytes(out)


SIZES = st.integers(0, 80) | st.integers(32_740, 32_770) | st.just(70_000)


@given(st.lists(SIZES, max_size=6), st.integers(0, 200))
def test_records_are_read_as_they_were_framed(sizes: list[int], cut: int) -> None:
    contents = [bytes([number]) * size for number, size in enumerate(sizes)]
    assert list(files._records(framed(contents))) == contents
    read = list(files._records(framed(contents)[: -cut - 1]))
    assert read == contents[: len(read)]  # of a file that was cut off, the records before


def offline(folder: Path, stage: str, logged: dict[str, Any], config: dict[str, Any], ended: bool = True) -> Path:
    """Write an offline run, without W&B."""
    from wandb.proto.wandb_internal_pb2 import Record

    run, history, end = Record(), Record(), Record()
    run.run.run_id, run.run.job_type = folder.name, stage
    for items, into in ((config, run.run.config.update), (logged, history.history.item)):
        for name, value in items.items():
            into.add(key=name, value_json=json.dumps(value))
    end.exit.exit_code = 0
    place = folder / stage / f"words-{len(list(folder.glob('*/*')))}" / "wandb" / "offline-run-1-id"
    place.mkdir(parents=True)
    records = [run, history, *([end] if ended else [])]
    (place / "run-id.wandb").write_bytes(framed([each.SerializeToString() for each in records]))
    return place / "run-id.wandb"


CONFIG = {"method": {"name": "scrub", "learning_rate": 0.1, "epochs": 3}, "seed": 0}


def needed() -> dict[str, float]:
    """Return what a result logs at least, by the dashboard."""
    names = keys.plain(views.names_in(views.specification("team", "project")))
    return {name.removesuffix("_table"): 0.5 for name in names if not name.startswith("config.")}


def test_the_dashboard_names_what_results_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "can_log_in", lambda: False)
    offline(tmp_path, "result", needed(), CONFIG)
    assert dashboard.main(["build", str(tmp_path), "--project", "a/b", "--entity", "team"]) == 0
    assert "wandb login" in capsys.readouterr().out
    found = json.loads((tmp_path / "dashboard.json").read_text())
    assert found["workspace"]["project"] == "a-b" and found["workspace"]["entity"] == "team"
    titles = json.dumps(found)
    for words in ("Gap against cost", "over seeds", "and its null", "A sweep", "pass/forget_accuracy_oracle"):
        assert words in titles, words
    assert {"ranking/gap", "ranking/passes", "config.method.learning_rate"} <= set(views.names_in(found["report"]))


def test_a_key_that_no_run_logs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged = needed()
    del logged["ranking/passes"], logged["audit/per_utterance_auc"]
    offline(tmp_path, "result", logged, {"method": {"name": "scrub", "epochs": 3}, "seed": 0})
    offline(tmp_path, "unlearned", {"ranking/passes": 1.0}, CONFIG)  # not a result
    assert dashboard.main(["build", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" is ")[0] for line in said if " is " in line] == ["method.learning_rate", "ranking/passes"]
    assert list(dashboard.unknown(["oracle/accuracy_test", "ranking/gapp", "nonsense"], tmp_path / "none")) == [
        f"{name} is not in the table of keys (scripts/tracking_keys.py)." for name in ("nonsense", "ranking/gapp")
    ]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("audit/exposure", "audit/<figure>"),
        ("audit/exposure_null_low", "audit/<figure>_null_low"),
        ("verdict/request_sentence", "verdict/<question>_sentence"),
        ("pass/forget_loss_oracle", "pass/<set>_loss_oracle"),
        ("unlearned/accuracy_test", "<model>/<metric>"),
        ("unlearnt/accuracy_test", None),
        ("pass/test_loss", None),
    ],
)
def test_a_key_has_its_most_special_entry(name: str, entry: str | None) -> None:
    found = keys.described(name)
    assert (None if found is None else found.name) == entry


def test_what_wandb_adds_is_no_key_of_ours() -> None:
    added = {
        "_step",
        "_wandb/runtime",
        "charts/losses_table/_type",
        "charts/losses_table/nrows",
        "comparison plot/_type",
    }
    names = {*added, "comparison plot/width", "comparison/_type", "comparison/sha256", "verdict/request", "epoch"}
    assert keys.plain(names) == {"charts/losses", "comparison plot", "comparison", "verdict/request", "epoch"}


def test_the_page_has_the_table_of_today() -> None:
    assert keys.PAGE.read_text(encoding="utf-8") == keys.page()


STAND_IN = """
import sys
from pathlib import Path
note = Path(sys.argv[1])
for folder in map(Path, sys.argv[2:]):
    stage = folder.parts[-4]
    with note.open("a") as file:
        print(stage, file=file)
    if stage in note.with_suffix(".fails").read_text().split():
        break
    (file,) = folder.glob("*.wandb")
    file.with_name(file.name + ".synced").touch()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program in the place of `wandb sync`, as no server is reachable; it leaves the marks that W&B leaves."""
    (tmp_path / "sync.py").write_text(STAND_IN)
    note = tmp_path / "note.txt"
    note.with_suffix(".fails").touch()
    note.touch()
    monkeypatch.setattr(dashboard, "SYNC", [sys.executable, str(tmp_path / "sync.py"), str(note)])
    monkeypatch.setattr(dashboard, "refused", lambda: None)
    return note


def test_an_upload_starts_with_originals_and_a_second_one_uploads_only_the_new(
    tmp_path: Path, stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "outputs"
    for stage in ("result", "unlearned", "original"):
        offline(output, stage, {}, {})
    assert dashboard.main(["sync", str(output)]) == 0
    assert stand_in.read_text().split() == ["original", "unlearned", "result"]
    assert dashboard.main(["sync", str(output)]) == 0 and len(stand_in.read_text().split()) == 3
    offline(output, "oracle", {}, {})
    running = offline(output, "result", {}, {}, ended=False)
    assert dashboard.main(["sync", str(output)]) == 0
    assert stand_in.read_text().split()[3:] == ["oracle"] and "1 were not ended" in capsys.readouterr().out
    assert not dashboard.uploaded(running)
    assert dashboard.main(["sync", str(output), "--unfinished"]) == 0 and dashboard.uploaded(running)


def test_an_upload_that_broke_off_continues(
    tmp_path: Path, stand_in: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "AT_ONCE", 1)
    output = tmp_path / "outputs"
    for stage in ("original", "oracle", "unlearned", "result"):
        offline(output, stage, {}, {})
    stand_in.with_suffix(".fails").write_text("oracle")
    assert dashboard.main(["sync", str(output)]) == 1
    assert stand_in.read_text().split() == ["original", "oracle"]  # the rest would fail, too
    assert "upload the other 3" in capsys.readouterr().out
    stand_in.with_suffix(".fails").write_text("")
    assert dashboard.main(["sync", str(output)]) == 0
    assert stand_in.read_text().split()[2:] == ["oracle", "unlearned", "result"]


def test_a_run_that_was_written_again_is_uploaded_again(tmp_path: Path, stand_in: Path) -> None:
    path = offline(tmp_path / "outputs", "original", {}, {})
    for _ in range(2):
        assert dashboard.main(["sync", str(tmp_path / "outputs")]) == 0 and dashboard.uploaded(path)
    path.touch()
    assert not dashboard.uploaded(path)


@pytest.mark.parametrize("why", ["no key", "no folder", "no server"])
def test_a_mistake_is_one_sentence(
    why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(tmp_path, "original", {}, {})
    monkeypatch.setattr(dashboard, "can_log_in", lambda: why == "no server")
    monkeypatch.setattr(dashboard, "refusal", lambda *_: "the server does not answer")
    assert dashboard.main(["sync", str(tmp_path / ("none" if why == "no folder" else "."))]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and said.count("\n") == 1
    words = {"no key": "wandb login", "no folder": "There is no folder", "no server": "does not answer"}
    assert words[why] in said
