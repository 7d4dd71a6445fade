"""Published lists of requests: equal to the draws, readable, and refused for another corpus."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from support import warm

from speechforget.config.identity import flat
from speechforget.data.corpora import arabic_speech_commands, espeak, espeak_clips
from speechforget.data.requests import published
from speechforget.data.requests.options import counted
from speechforget.data.requests.select import select
from speechforget.data.split import split
from speechforget.errors import UserError
from speechforget.stages.split import split_corpus
from speechforget.store import Store

ROOT = Path(__file__).parents[2]
ARABIC = ROOT.parent / "shared" / "data" / "arabic-speech-commands"


def arabic(label: str) -> Any:
    if not ARABIC.is_dir():
        pytest.skip("Arabic Speech Commands is not here")
    return arabic_speech_commands.index(ARABIC, label, Path("cache"))


CORPUS = {"espeak": lambda label: espeak.index(None, label, Path("cache")), "arabic_speech_commands": arabic}


def task(by: str, percent: object, **changes: Any) -> dict[str, Any]:
    asked = yaml.safe_load((ROOT / "conf" / "task" / "sample.yaml").read_text())
    return {**asked, "by": by, "percent": percent, "list": {"name": "tiny-word"}, **changes}


@pytest.fixture
def table() -> pd.DataFrame:
    """Make 500 utterances with the most awkward ids that a list of lines allows; two of them are copies."""
    odd = ["#{} percent", "\\{}, a b ", " {}", "{} # x", "\\#{}", "{}\u2028é"]
    rows = [
        {
            "id": odd[number % 6].format(number),
            "word": f"w{number % 5}",
            "speaker": f"s{number % 7}",
            "subset": "test" if number % 8 == 0 else "",
        }
        for number in range(500)
    ]
    made = pd.DataFrame(rows)
    made["sha1"] = made["id"]
    made.loc[11, "sha1"] = made.loc[1, "sha1"]
    return split(made.sort_values("id", ignore_index=True), "word")


@pytest.fixture
def lists(table: pd.DataFrame, tmp_path: Path) -> Path:
    for seed in (0, 1):
        published.write(
            table, tmp_path / "lists" / f"tiny-word-seed{seed}.txt", seed, {"settings": "dataset.holdout=0.2"}
        )
    return tmp_path / "lists"


def test_a_list_is_the_random_draw_nested_to_the_last_id(table: pd.DataFrame, lists: Path) -> None:
    before: set[int] = set()
    for percent in range(1, 11):
        for seed in (0, 1):
            drawn, read = (
                select(table, task(by, percent, seed=seed, lists=str(lists))) for by in ("random", "published")
            )
            assert np.array_equal(drawn.forget, read.forget) and np.array_equal(drawn.nonmembers, read.nonmembers)
        assert read.name == f"sample-published-{percent}percent-seed1"
        assert before < set(read.forget)
        assert set(table["subset"].iloc[read.forget]) == {"train"}
        before = set(read.forget)
    ids = published.read(lists / "tiny-word-seed1.txt").ids
    assert len(ids[10]) == len(set(ids[10])) == len(before)
    assert all(ids[10][: len(ids[percent])] == ids[percent] for percent in ids)
    text = (lists / "tiny-word-seed0.txt").read_text()
    assert text.startswith("# settings: dataset.holdout=0.2\n# utterances: train ")
    assert [line for line in text.split("\n") if line.endswith(" percent") and line[:2] == "# "] == [
        f"# {percent} percent" for percent in range(1, 11)
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"percent": 2.5}, "holds 1 to 10"),
        ({"percent": 11}, "holds 1 to 10"),
        ({"percent": "x"}, "percent is x"),
        ({"balanced": False}, "balanced"),
        (
            {"seed": 7},
            r"No list of requests tiny-word-seed7 .*tiny-word-seed1.*"
            r"request_lists.py dataset=tiny dataset.label=word .*--seeds 7",
        ),
        ({"list": {"name": "my_own-word"}}, r"there are tiny-word\).*dataset=my_own "),
        ({"lists": None}, r"comes with speechforget \(.*espeak-word.*dataset=tiny "),
    ],
)
def test_lists_that_are_not_there_say_how_to_make_them(table, lists: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        select(table, {**task("published", 3, lists=str(lists)), **changes})


def test_another_division_is_refused_and_says_what_differs(table, lists: Path) -> None:
    asked = task("published", 3, lists=str(lists))
    grown = pd.concat([table, table.iloc[[0]].assign(id="new", subset="train", unit="new")], ignore_index=True)
    swapped = table.copy()
    first = {subset: table.index[table["subset"] == subset][0] for subset in ("train", "holdout")}
    swapped.loc[first["train"], "subset"], swapped.loc[first["holdout"], "subset"] = "holdout", "train"
    relabelled = table.assign(label=table["label"].replace("w1", "w9"))
    without = table[table["label"] != "w1"].reset_index(drop=True)
    cases = {
        "this split has train": grown,
        "same sizes but other": swapped,
        "other utterances, labels": relabelled,
        "are not in training, first '": without,
    }
    for words, other in cases.items():
        with pytest.raises(UserError, match=f"{words}.*dataset.holdout=0.2"):
            select(other, asked)


def test_other_recordings_under_the_same_ids_are_a_warning(table, lists: Path, caplog) -> None:
    asked = task("published", 3, lists=str(lists))
    with caplog.at_level(logging.WARNING):
        select(table, asked)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        request = select(table.assign(sha1="other"), asked)
    assert "its audio differs" in caplog.text
    assert np.array_equal(request.forget, select(table, asked).forget)


@pytest.mark.parametrize("damage", ["cut", "no head", "no list", "binary", "folder"])
def test_a_damaged_list_is_refused(table, lists: Path, damage: str) -> None:
    path = lists / "tiny-word-seed0.txt"
    text = path.read_text()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        changed = {
            "cut": text[: len(text) // 2],
            "no head": text[text.index("# ids") :],
            "no list": "a\nb\n",
            "binary": "\ud800",
        }[damage]
        path.write_text(changed, errors="surrogatepass")
    with pytest.raises(UserError, match=r"cannot be read|No list"):
        select(table, task("published", 3, lists=str(lists)))


@pytest.mark.parametrize("label", ["word", "speaker"])
@pytest.mark.parametrize("name", CORPUS)
def test_the_lists_that_come_along_are_what_is_drawn(name: str, label: str, monkeypatch) -> None:
    """Without the recordings: neither espeak's nor the Arabic clips have copies of one another, so ids alone decide."""
    monkeypatch.setattr(espeak_clips, "_make", lambda *_: None)
    table = split(CORPUS[name](label).table, label)
    for seed in range(5):
        for percent in (1, 4, 10):
            asked = {"seed": seed, "list": {"name": f"{name}-{label}"}}
            drawn, read = (select(table, task(by, percent, **asked)) for by in ("random", "published"))
            assert np.array_equal(drawn.forget, read.forget)
            assert abs(len(read.forget) - percent / 100 * (table["subset"] == "train").sum()) <= 0.5
    assert not (label == "word" and set(read.forget) == set(select(table, task("random", 10, seed=0)).forget))


def test_the_lists_that_come_along_name_no_place() -> None:
    paths = sorted(published.HOME.glob("*.txt"))
    assert len(paths) == 20
    for path in paths:
        head = published.read(path).head
        assert {"note", "command", "speechforget", "settings", "seed", "utterances", "division", "recordings"} <= set(
            head
        )
        assert not any(word in str(head) for word in ("/work", "/home", "/tmp"))


def test_the_command_makes_lists_that_a_run_reads(
    configure: Callable[..., dict[str, Any]], small: list[str], tmp_path: Path
) -> None:
    words = [word for word in small if word.startswith("dataset")]
    places = [f"task.lists={tmp_path / 'lists'}", f"output={tmp_path}"]
    line = [str(ROOT / "scripts" / "request_lists.py"), *words, *places, "--seeds", "3"]
    done = warm.run(line, ROOT, os.environ, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "lists").iterdir()
    assert done.stdout.strip() == str(path)
    assert path.name == "folder-word-seed3.txt"
    assert str(tmp_path) not in path.read_text() and "dataset.root=FOLDER" in path.read_text()
    config = configure(
        f"output={tmp_path}",
        "task=sample",
        "task.by=published",
        f"task.lists={tmp_path / 'lists'}",
        "task.seed=3",
        "task.percent=10",
    )
    table = split_corpus(config, Store(tmp_path)).table
    read, drawn = (select(table, {**config["task"], "by": by}) for by in ("published", "random"))
    assert np.array_equal(read.forget, drawn.forget)


def test_every_key_of_a_request_can_be_set_and_a_report_sees_no_corpus_in_it(
    configure: Callable[..., dict[str, Any]],
) -> None:
    asked = ["task=sample", "task.by=accent", "task.values=['on',Scots]", "task.share=[2.5,5]", "task.fewest=100"]
    found = configure(*asked, "dataset.label=speaker")["task"]
    assert (found["values"], found["share"], found["fewest"]) == (["on", "Scots"], [2.5, 5], 100)
    assert found["list"] == {"name": "folder-speaker"}
    assert "folder" not in str(flat(counted(found)))
