"""The table of methods: what it makes, what it finds again, how it names what is missing or wrong."""

from __future__ import annotations

import argparse
import csv
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speechforget.errors import UserError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
script = vars(importlib.import_module("method_table"))
PAGE = f"# Title\n\n{script['BEGIN']}\nan earlier table\n{script['END']}\n\nThe end.\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(scope="module")
def words(small: list[str], place: Path) -> list[str]:
    settings = [word for word in small if not word.startswith(("dataset=", "logger="))]
    chosen = [
        "--datasets",
        "folder",
        "--labels",
        "word",
        "--tasks",
        "sample",
        "class",
        "--methods",
        "none",
        "finetune",
        "--seeds",
        "0,1",
    ]
    return [
        *chosen,
        "--page",
        str(place / "page.md"),
        "--set",
        *settings,
        f"output={place / 'out'}",
        f"cache={place / 'cache'}",
    ]


@pytest.fixture(scope="module")
def made(words: list[str], place: Path) -> str:
    (place / "page.md").write_text(PAGE)
    arguments = script["parsed"](words)
    assert script["make"](arguments, script["command_of"](arguments)) == 0
    return (place / "page.md").read_text()


def row_of(text: str, name: str) -> list[str]:
    """The cells of the first row whose name starts so."""
    return next(
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {name}")
    )


@pytest.mark.slow
def test_the_table_stands_between_its_marks(made: str, place: Path) -> None:
    assert made.startswith("# Title\n\n") and made.endswith("\n\nThe end.\n") and "an earlier table" not in made
    assert "dataset.root=FOLDER" in made and str(place) not in made and "commit" in made
    assert "sample unlearning" in made and "class unlearning" in made
    for name in ("Original", "Oracle", "none", "finetune"):
        assert row_of(made, name)[-1] == "2", name  # runs
    assert "±" in row_of(made, "finetune")[3]
    classes = made[made.index("class unlearning") :]
    assert "none [does nothing]" in classes  # as the oracle knows nothing of the class
    assert "Does nothing: accuracy on forget" in classes
    assert "Original [" not in made and "Oracle [" not in made


@pytest.mark.slow
def test_the_csv_holds_the_same_numbers(made: str, place: Path) -> None:
    rows = list(csv.DictReader((place / "out" / "page.csv").open()))
    (forget,) = [
        row
        for row in rows
        if row["row"] == "finetune" and row["metric"] == "accuracy_forget" and row["block"].startswith("class")
    ]
    shown = row_of(made[made.index("class unlearning") :], "finetune")
    assert shown[3].split(" ")[0] == f"{100 * float(forget['mean']):.1f}"


@pytest.mark.slow
def test_a_second_time_everything_is_found(
    made: str, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("speechforget.stages.build.build", refuse)
    arguments = script["parsed"](words)
    assert script["make"](arguments, script["command_of"](arguments)) == 0
    assert (place / "page.md").read_text() == made


@pytest.mark.slow
def test_other_results_in_the_same_output_stay_out(made: str, words: list[str], place: Path) -> None:
    arguments = script["parsed"](words)
    arguments.methods, arguments.seeds, arguments.page = ["none"], [0], place / "less.md"
    arguments.page.write_text(PAGE)
    assert script["make"](arguments, "less") == 0
    text = arguments.page.read_text()
    assert row_of(text, "Original")[-1] == "1" and "| finetune" not in text


@pytest.mark.slow
def test_what_fails_or_is_not_defined_is_listed_and_does_not_end_the_others(
    made: str, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of = script["perform"].__globals__["config_of"]

    def changed(overrides: tuple[str, ...]) -> dict[str, Any]:
        config = config_of(overrides)
        if config["method"]["name"] == "finetune" and config["seed"] == 0:
            return {**config, "method": {**config["method"], "batch_size": 0}}
        if config["method"]["name"] == "salun" and config["task"]["kind"] == "sample":
            return {**config, "method": {**config["method"], "requests": ["class"]}}
        return config

    monkeypatch.setitem(script["perform"].__globals__, "config_of", changed)
    arguments = script["parsed"](words)
    arguments.methods, arguments.page = ["finetune", "none", "salun"], place / "failed.md"
    arguments.page.write_text(PAGE)
    assert script["make"](arguments, "failed") == 2
    text = arguments.page.read_text()
    assert row_of(text, "salun: not applicable")[1] == "–"
    assert row_of(text[text.index("class unlearning") :], "salun")[-1] == "2"
    assert row_of(text, "finetune")[-1] == "1" and row_of(text, "none")[-1] == "2"
    assert "- folder word sample finetune: A batch size must be at least 1, not 0." in text


@pytest.mark.nightly
def test_two_processes_make_the_same(made: str, words: list[str], place: Path) -> None:
    page = place / "jobs.md"
    page.write_text(PAGE)
    output = [
        str(page) if word == str(place / "page.md") else word.replace(str(place / "out"), str(place / "jobs"))
        for word in words
    ]
    line = [sys.executable, str(ROOT / "scripts" / "method_table.py"), *output, "--jobs", "2"]
    line[line.index("0,1")] = "0"
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    values = [
        [row for row in csv.DictReader((place / name).open()) if row["artefact"] == "original"]
        for name in ("out/page.csv", "jobs/jobs.csv")
    ]
    assert {row["metric"] for row in values[0]} == {row["metric"] for row in values[1]}
    assert (
        len(list((place / "jobs" / "original").glob("*/DONE"))) == 1
        and len(list((place / "jobs" / "oracle").glob("*/DONE"))) == 2
    )
    assert row_of(page.read_text(), "finetune")[-1] == "1"


@pytest.mark.slow
def test_a_process_that_is_killed_does_not_end_the_others(
    made: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crash.py").write_text("import os\n\n\ndef index(**_):\n    os.kill(os.getpid(), 9)\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # which new processes are told
    good = next(script["jobs_of"](script["parsed"](words)))
    bad = script["Job"]((*good.overrides, "dataset.corpus._target_=crash.index"), good.cell)
    outcomes = script["perform_all"]([bad, good], 2, "runs")
    assert [outcome.state for outcome in outcomes] == ["failed", "done"] and "killed" in outcomes[0].text


def test_settings_reach_the_dataset_they_name() -> None:
    settings = ["train.epochs=2", "one:dataset.root=/a", "two:dataset.root=/b", "original.checkpoint=a:b"]
    assert script["set_for"](settings, "one") == ["train.epochs=2", "dataset.root=/a", "original.checkpoint=a:b"]
    assert script["_told"]("one:dataset.root=/a") == "one:dataset.root=FOLDER" and script["_told"]("output=/a") == ""


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(UserError, match="must hold the lines"):
        script["read_page"](page)
    with pytest.raises(UserError, match="did you mean 'scrub'"):
        script["check_names"](argparse.Namespace(methods=["scrubb"], datasets=["espeak"]))


def test_the_page_of_the_project_has_the_marks(configure: Callable) -> None:
    assert script["read_page"](ROOT / "docs" / "methods.md")


def test_one_seed_is_enough_for_some() -> None:
    chosen = [
        "--methods",
        "scrub",
        "ssd",
        "--datasets",
        "espeak",
        "folder",
        "--one-seed",
        "folder",
        "--tasks",
        "class",
        "--labels",
        "word",
    ]
    arguments = script["parsed"](chosen)
    counts = Counter((job.cell[0], job.cell[3]) for job in script["jobs_of"](arguments))
    assert counts == {("espeak", "scrub"): 3, ("espeak", "ssd"): 3, ("folder", "scrub"): 3, ("folder", "ssd"): 1}
    assert "--seeds 0,1,2 --one-seed folder" in script["command_of"](arguments)
    arguments.one_seed = ["foldr"]
    with pytest.raises(UserError, match="There is no dataset=foldr: did you mean 'folder'"):
        script["check_names"](arguments)
