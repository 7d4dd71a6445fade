"""Requests after one another: what each leaves, what is refused, and that the order does not matter to oracles."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.request_tables import TABLE, task

from speechforget.config.steps import at_once, config_before, is_continued, step_configs
from speechforget.data.requests.options import counted
from speechforget.data.requests.past import Earlier, mark_model, past_of, read_earlier
from speechforget.data.requests.request import SEVERAL
from speechforget.data.requests.select import select
from speechforget.data.requests.steps import steps_of, with_earlier
from speechforget.errors import NotApplicable, UserError
from speechforget.store import write_json

TRAIN = set(np.flatnonzero(TABLE["subset"] == "train"))
SPEAKERS = ["s0", "s1", "s2"]


def sequence(kind: str = "sample", **changes: Any) -> list[Any]:
    """Select every request of a sequence."""
    return [select(TABLE, each) for each in with_earlier(task(kind, **changes))]


@settings(max_examples=20)
@given(percents=st.lists(st.integers(2, 20), min_size=2, max_size=4), seed=st.integers(0, 100))
def test_random_requests_are_disjoint_and_shrink_retain(percents: list[int], seed: int) -> None:
    found = sequence(percent=5, requests=percents, seed=seed)
    for one, other in itertools.combinations(found, 2):
        assert not set(one.forget) & set(other.forget)
    gone: set[int] = set()
    for request in found:
        gone |= set(request.forget)
        assert set(request.retain(TABLE)) == TRAIN - gone
        assert not set(request.nonmembers) & gone
        assert set(request.of_oracle.forget) == gone


@settings(max_examples=10)
@given(order=st.permutations(SPEAKERS))
def test_orders_that_reach_one_set_share_the_oracle(order: list[str]) -> None:
    last = sequence(by="speaker", requests=order)[-1]
    together = select(TABLE, task(by="speaker", requests=SPEAKERS, at_once=True))
    single = select(TABLE, task(by="speaker", values=SPEAKERS))
    digests = {each.of_oracle.digest(TABLE) for each in (last, together, single)}
    assert len(digests) == 1 and last.of_oracle.name == together.name == SEVERAL
    assert last.digest(TABLE) != together.digest(TABLE)


def test_a_forgotten_class_leaves_every_subset() -> None:
    first, second = sequence("class", requests=["w0", ["w1", "w2"]])
    assert first.forgotten == ("w0",) and second.forgotten == ("w1", "w2")
    assert set(second.withdrawn) == set(np.flatnonzero(TABLE["label"] == "w0"))
    assert second.of_oracle.forgotten == ("w0", "w1", "w2") and not len(second.unheard)
    assert second.to_json(TABLE)["earlier"][0]["classes"] == ["w0"]


def test_what_a_list_withdrew_stays_withdrawn(tmp_path: Path) -> None:
    files = []
    for speaker in ("s0", "s1"):
        files.append(tmp_path / f"{speaker}.txt")
        files[-1].write_text("\n".join(TABLE["id"][TABLE["speaker"] == speaker]))
    first, second = sequence(by="ids", requests=[str(file) for file in files])
    others = set(np.flatnonzero(TABLE["speaker"] == "s0"))
    assert {*first.forget, *first.withdrawn} == others <= set(second.withdrawn)
    assert set(second.unheard) == set(np.flatnonzero(TABLE["speaker"] == "s1")) - set(second.forget)
    assert set(second.of_oracle.withdrawn) == {*first.unheard, *second.unheard}
    assert second.of_oracle.digest(TABLE) == select(
        TABLE, task(by="ids", requests=[str(file) for file in files[::-1]], at_once=True)
    ).digest(TABLE)


def test_releases_are_differences_of_tables(tmp_path: Path) -> None:
    def release(name: str, ids: list[str]) -> str:
        (tmp_path / name).write_text("id,word\n" + "".join(f"{each},w\n" for each in ids))
        return str(tmp_path / name)

    ids = TABLE["id"].tolist()
    gone = [TABLE["id"][row] for row in sorted(TRAIN)[:6]]
    second = [each for each in ids if each not in gone[:4]]
    tables = [
        release("a.csv", ids),
        release("b.csv", second),
        release("c.csv", second[:0] + [each for each in second if each not in gone]),
    ]
    first, last = sequence(by="releases", requests=tables)
    assert set(TABLE["id"].iloc[first.forget]) == set(gone[:4])
    assert set(TABLE["id"].iloc[last.forget]) == set(gone[4:])
    alone = select(TABLE, task(by="releases", releases=tables[:2]))
    assert np.array_equal(alone.forget, first.forget)
    with pytest.raises(UserError, match="nothing to forget"):
        select(TABLE, task(by="releases", releases=[tables[0], tables[0]]))


def test_keep_forget_gives_the_method_all_and_the_scores_one() -> None:
    kept, plain = (sequence(by="speaker", requests=SPEAKERS, keep_forget=keep)[-1] for keep in (True, False))
    assert set(kept.of_method.forget) == {*kept.forget, *kept.past.forget} and plain.of_method is plain
    assert np.array_equal(kept.forget, plain.forget) and kept.digest(TABLE) == plain.digest(TABLE)
    assert kept.of_method.digest(TABLE) != plain.digest(TABLE)
    assert not set(kept.of_method.withdrawn) & set(kept.of_method.forget)
    assert "used them again (task.keep_forget=true)" in kept.notes[-1] and "did not use" in plain.notes[-1]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"by": "speaker", "requests": ["s0", "s0"]}, "already, first 's0'"),
        ({"by": "speaker", "requests": ["s0", ["s1", "s0"]]}, "already, first 's0'"),
        ({"by": "speaker", "requests": ["s0"]}, "two or more requests"),
        ({"by": "speaker", "requests": "s0"}, "two or more requests"),
        ({"by": "speaker", "requests": ["s0", None]}, "Request 2 of task.requests is empty"),
        ({"by": "speaker", "requests": ["s0", []]}, "Request 2 of task.requests is empty"),
        ({"by": "speaker", "requests": [["s0", "s1", "s2"], ["s3", "s4", "s5"]]}, "whole training subset"),
        ({"by": "random", "requests": [5, 200]}, "below 100"),
        ({"by": "releases", "requests": ["a.csv", "b.csv"]}, "three or more releases"),
        ({"by": "published", "requests": [1, 2]}, "not defined for task.by=published"),
    ],
)
def test_mistakes_are_one_sentence(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises((UserError, NotApplicable), match=sentence) as caught:
        sequence(**asked)
    assert str(caught.value).count("\n") == 0


def test_an_utterance_in_two_lists_is_refused(tmp_path: Path) -> None:
    ids = [TABLE["id"][row] for row in sorted(TRAIN)[:5]]
    for name, part in (("a", ids[:3]), ("b", ids[2:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
    with pytest.raises(UserError, match=f"names 1 of what an earlier .* first '{ids[2]}' .sample-ids-a"):
        sequence(by="ids", requests=[str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])


def test_a_chain_of_configs_ends_at_the_first_original() -> None:
    config = {"task": task(by="speaker", requests=SPEAKERS), "original": {"checkpoint": None, "result": None}}
    first, second, third = step_configs(config)
    assert config_before(first) is None and not is_continued(first) and is_continued(third)
    assert config_before(third) == second and config_before(second) == first
    assert select(TABLE, at_once(config)["task"]).name == SEVERAL
    assert [step["values"] for step in steps_of(config["task"])] == SPEAKERS
    assert {"after", "keep_forget"} <= set(counted(third["task"])) and "after" not in counted(first["task"])


def test_what_a_model_forgot_is_read_back(tmp_path: Path) -> None:
    known = [Earlier("sample-a", "sample", (), ("w0/s0_1",), ("w0/s0_0",)), Earlier("class-w1", "class", ("w1",), ())]
    write_json(tmp_path / "model.json", {"labels": []})
    mark_model(tmp_path, known)
    assert read_earlier(tmp_path) == read_earlier(tmp_path / "forgotten.json") == known
    past = past_of(TABLE, read_earlier(tmp_path))
    assert set(past.rows) >= set(np.flatnonzero(TABLE["label"] == "w1")) and past.classes == ("w1",)
    (tmp_path / "forgotten.json").unlink()
    with pytest.raises(UserError, match=r"task.after=\[FILE\]"):
        read_earlier(tmp_path)
    (tmp_path / "gone.txt").write_text("w0/s0_1\n\nw0/s0_2\n")
    assert read_earlier(tmp_path / "gone.txt")[0].forget == ("w0/s0_1", "w0/s0_2")


def test_recordings_that_are_deleted_since_then_are_nobodys_mistake() -> None:
    past = past_of(TABLE, [Earlier("sample-a", "sample", (), ("deleted/long_ago",))])
    assert past and not len(past.rows)
