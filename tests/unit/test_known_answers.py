"""Keys and exchanged labels are given to the recordings that were asked for, and are asked for in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.request_tables import TABLE, check, corpus, task

from speechforget.config.validate import check as check_config
from speechforget.data.known_answers import change
from speechforget.data.requests.select import select
from speechforget.errors import NotApplicable, UserError

NO_KEYS = {"kind": None, "percent": 8, "snr": 0, "seed": 0}
NO_CONFUSION = {"classes": None, "percent": 50, "seed": 0}
NO_WRONG_LABELS = {"percent": None, "seed": 0}
NO_BACKDOOR = {"target": None, "percent": 5, "sound": "chirp", "seconds": 0.2, "snr": 5, "seed": 0}


def drawn(count: int, size: int, percent: float) -> bool:
    """Say whether a count can come from one draw for each recording. Three sigma fail once in some hundred examples."""
    return bool(stats.binomtest(int(count), int(size), percent / 100).pvalue > 1e-8)


def planted(table: pd.DataFrame = TABLE, **options: Any) -> pd.DataFrame:
    keys = {**NO_KEYS, "kind": "noise", "percent": 20, **options}
    return change(table, keys, NO_CONFUSION, NO_WRONG_LABELS, NO_BACKDOOR)


def confused(table: pd.DataFrame = TABLE, **options: Any) -> pd.DataFrame:
    return change(table, NO_KEYS, {**NO_CONFUSION, "classes": ["w1", "w3"], **options}, NO_WRONG_LABELS, NO_BACKDOOR)


def mislabelled(table: pd.DataFrame = TABLE, **options: Any) -> pd.DataFrame:
    return change(table, NO_KEYS, NO_CONFUSION, {"percent": 20, "seed": 0, **options}, NO_BACKDOOR)


def triggered(table: pd.DataFrame = TABLE, **options: Any) -> pd.DataFrame:
    backdoor = {**NO_BACKDOOR, "target": "w1", "percent": 20, **options}
    return change(table, NO_KEYS, NO_CONFUSION, NO_WRONG_LABELS, backdoor)


def test_without_them_nothing_changes() -> None:
    table = change(TABLE, NO_KEYS, NO_CONFUSION, NO_WRONG_LABELS, NO_BACKDOOR)
    assert (table["planted"] == "").all() and (table["taught"] == table["label"]).all()


@settings(deadline=None, max_examples=30)
@given(st.floats(15, 90), st.integers(0, 10**6))
def test_training_and_holdout_get_their_share_of_keys_and_test_and_validation_none(percent: float, seed: int) -> None:
    table = planted(percent=percent, seed=seed)
    share = table.groupby("subset")["planted"].agg(lambda kinds: (kinds == "noise").mean())
    assert share["train"] == pytest.approx(percent / 100, abs=0.2)
    assert share["holdout"] == pytest.approx(percent / 100, abs=0.35)
    assert share["test"] == share["validation"] == 0
    request = select(table, task(by="planted"))
    check(request, table)
    assert set(table["planted"].iloc[[*request.forget, *request.nonmembers]]) == {"noise"}
    assert set(table["planted"].iloc[request.retain(table)]) == {""}


@settings(deadline=None, max_examples=30)
@given(st.floats(5, 95), st.integers(0, 10**6), st.permutations(["w1", "w3"]))
def test_labels_are_exchanged_in_training_between_the_two_classes(percent: float, seed: int, pair: list[str]) -> None:
    table = confused(classes=pair, percent=percent, seed=seed)
    wrong = table[table["taught"] != table["label"]]
    assert set(wrong["subset"]) == {"train"}
    assert set(zip(wrong["label"], wrong["taught"], strict=True)) == {("w1", "w3"), ("w3", "w1")}
    for label in pair:
        size = ((table["label"] == label) & (table["subset"] == "train")).sum()
        count = (wrong["label"] == label).sum()
        assert 1 <= count < size and drawn(count, size, percent)
    request = select(table, task(by="confused"))
    check(request, table)
    assert set(request.forget) == set(wrong.index)
    assert not len(request.nonmembers) and "no holdout recording is confused" in request.matched


@settings(deadline=None, max_examples=30)
@given(st.floats(5, 95), st.integers(0, 10**6))
def test_wrong_labels_are_those_of_other_classes_in_training_alone(percent: float, seed: int) -> None:
    table = mislabelled(percent=percent, seed=seed)
    wrong = table[table["taught"] != table["label"]]
    assert set(wrong["subset"]) == {"train"} and set(wrong["taught"]) <= set(table["label"])
    size = (table["subset"] == "train").sum()
    assert drawn(len(wrong), size, percent)
    request = select(table, task(by="mislabelled"))
    check(request, table)
    assert set(request.forget) == set(wrong.index) and not len(request.nonmembers)


@settings(deadline=None, max_examples=30)
@given(st.floats(5, 95), st.integers(0, 10**6))
def test_a_trigger_is_in_training_recordings_of_other_classes_taught_as_the_target(percent: float, seed: int) -> None:
    table = triggered(percent=percent, seed=seed)
    changed = table[table["taught"] != table["label"]]
    assert set(changed["subset"]) == {"train"} and set(changed["taught"]) == {"w1"}
    assert (table["planted"] == "chirp").to_numpy().nonzero()[0].tolist() == changed.index.tolist()
    others = ((table["subset"] == "train") & (table["label"] != "w1")).sum()
    assert drawn(len(changed), others, percent)
    request = select(table, task(by="backdoor"))
    check(request, table)
    assert set(request.forget) == set(changed.index) and not len(request.nonmembers)
    assert "no holdout recording is triggered" in request.matched


def test_each_other_label_is_as_likely() -> None:
    table = mislabelled(corpus(takes=200), percent=60)
    wrong = table[table["taught"] != table["label"]]
    steps = pd.crosstab(wrong["label"], wrong["taught"]).to_numpy()
    others = steps[~np.eye(len(steps), dtype=bool)]
    assert (steps.diagonal() == 0).all()
    assert stats.chisquare(others.reshape(len(steps), -1), axis=1).pvalue.min() > 1e-4


def test_a_draw_depends_on_ids_and_seed_alone() -> None:
    fewer = TABLE.drop(index=TABLE.index[::9]).reset_index(drop=True)
    for draw, column in ((planted, "planted"), (confused, "taught"), (mislabelled, "taught"), (triggered, "taught")):
        whole, part = draw().set_index("id")[column], draw(fewer).set_index("id")[column]
        assert (whole[part.index] == part).mean() > 0.97
        assert not draw(seed=1)[column].equals(draw()[column])


def test_copies_carry_keys_together() -> None:
    sha1 = TABLE["id"].where(~TABLE["id"].str.endswith(("_3", "_4")), TABLE["id"].str[:-1])
    table = TABLE.assign(sha1=sha1, subset=TABLE["subset"].replace("holdout", "train"))
    table["unit"] = table.groupby("sha1")["id"].transform("min")
    table = table[~((table["subset"] != "train") & table["unit"].duplicated(keep=False))].reset_index(drop=True)
    assert planted(table).groupby("unit")["planted"].nunique().eq(1).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: planted(percent=0), "dataset.planted.percent must be a share"),
        (lambda: planted(percent="many"), "dataset.planted.percent must be a share"),
        (lambda: planted(percent=1), "20 are needed"),
        (lambda: confused(percent=100), "dataset.confused.percent must be a share"),
        (lambda: confused(percent=0.5, table=corpus(takes=4)), "no training recording of 'w1'"),
        (lambda: confused(classes=["w1"]), "names 1 classes: name two"),
        (lambda: confused(classes=["w1", "w1"]), "names 1 classes: name two"),
        (lambda: confused(classes=["w1", "w9"]), "names 'w9', which the training subset lacks"),
        (lambda: confused(classes=["w1", True]), "put words such as yes, no"),
        (lambda: mislabelled(percent=100), "dataset.mislabelled.percent must be a share"),
        (lambda: mislabelled(percent=0.5, table=corpus(takes=4)), "gives a wrong label to no training recording"),
        (lambda: mislabelled(TABLE[TABLE["label"] == "w1"]), "needs two classes or more"),
        (lambda: triggered(percent=100), "dataset.backdoor.percent must be a share"),
        (lambda: triggered(percent=0.5, table=corpus(takes=4)), "gives the trigger to no training recording"),
        (lambda: triggered(target="w9"), "dataset.backdoor.target names 'w9', which the training subset lacks"),
        (lambda: triggered(TABLE[TABLE["label"] == "w1"]), "is the only class"),
        (lambda: select(TABLE, task(by="backdoor")), "dataset.backdoor.target=CLASS gives them a trigger"),
        (lambda: select(TABLE, task(by="mislabelled")), "dataset.mislabelled.percent=10 gives them wrong labels"),
        (lambda: select(TABLE, task(by="planted")), "dataset.planted.kind=noise gives them keys"),
        (lambda: select(TABLE, task(by="confused")), "dataset.confused.classes=.FIRST,SECOND. exchanges"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


KEYS, LABELS = "dataset.planted.kind=noise", "dataset.confused.classes=[word0,word1]"
WRONG = "dataset.mislabelled.percent=20"
TRIGGER = "dataset.backdoor.target=word0"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.by=planted"], "task.by=planted asks for recordings that this dataset lacks"),
        (["task.by=confused"], "task.by=confused asks for recordings that this dataset lacks"),
        (["task.by=mislabelled"], "task.by=mislabelled asks for recordings that this dataset lacks"),
        (["task.by=random", WRONG], "dataset.mislabelled is for the request task=sample task.by=mislabelled"),
        (["task.by=mislabelled", "dataset.mislabelled.percent=0"], "dataset.mislabelled.percent must be a share"),
        (["task.by=backdoor"], "task.by=backdoor asks for recordings that this dataset lacks"),
        (["task.by=random", TRIGGER], "dataset.backdoor is for the request task=sample task.by=backdoor"),
        (["task.by=backdoor", TRIGGER, WRONG], "dataset.mislabelled and dataset.backdoor are set"),
        (["task.by=backdoor", TRIGGER, "dataset.backdoor.sound=bell"], "no dataset.backdoor.sound=bell"),
        (["task.by=backdoor", TRIGGER, "dataset.backdoor.snr=loud"], "dataset.backdoor.snr must be a number"),
        (["task.by=backdoor", TRIGGER, "dataset.backdoor.seconds=9"], "longer than what a model hears"),
        (["task.by=backdoor", TRIGGER, "dataset.backdoor.percent=0"], "dataset.backdoor.percent must be a share"),
        (["task.by=backdoor", "dataset.backdoor.target=[word0,word1]"], "must be the name of one class"),
        (["task.by=backdoor", "dataset.backdoor.target=true"], "quote words such as yes"),
        (["task.by=backdoor", TRIGGER, "evaluation.pairs=4"], "set evaluation.pairs=0"),
        (["task.by=backdoor", TRIGGER, "task.requests=[1,2]"], "task.requests is not defined for task.by=backdoor"),
        (["dataset.backdoor.seconds=0.1"], "dataset.backdoor.seconds has no effect without dataset.backdoor.target"),
        (["dataset.mislabelled.seed=1"], "mislabelled.seed has no effect without dataset.mislabelled.percent"),
        (["task.by=mislabelled", WRONG, "evaluation.pairs=4"], "set evaluation.pairs=0"),
        (["task.by=planted", KEYS, LABELS], "dataset.planted and dataset.confused are set, and a request has one"),
        (["task.by=confused", KEYS], "dataset.planted is for the request task=sample task.by=planted"),
        (["task.by=random", KEYS], "dataset.planted is for the request task=sample task.by=planted"),
        (["task.by=speaker", LABELS], "dataset.confused is for the request task=sample task.by=confused"),
        (["task=class", KEYS], "dataset.planted is for the request"),
        (["task.by=planted", "dataset.planted.kind=music"], "no dataset.planted.kind=music"),
        (["task.by=planted", KEYS, "dataset.planted.snr=loud"], "dataset.planted.snr must be a number"),
        (["task.by=planted", KEYS, "dataset.planted.percent=100"], "dataset.planted.percent must be a share"),
        (["task.by=planted", KEYS, "dataset.planted.seed=-1"], "dataset.planted.seed must be a whole number"),
        (
            ["task.by=planted", KEYS, "task.percent=7"],
            "task.percent has no effect with task.by=planted: dataset.pl",
        ),
        (["task.by=confused", "dataset.confused.classes=[word0,true]"], "quote words such as yes"),
        (["dataset.planted.snr=10"], "dataset.planted.snr has no effect without dataset.planted.kind"),
        (["dataset.confused.seed=1"], "dataset.confused.seed has no effect without dataset.confused.classes"),
        (["dataset.planted=noise"], "dataset.planted has keys of its own"),
        (["task.by=planted", KEYS, "original.checkpoint=folder"], "original.checkpoint is trained already"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_read(
    overrides: list[str], words: str, configure: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(UserError, match=words):
        check_config(configure("task=sample", *overrides))


def test_a_sweep_skips_requests_that_a_dataset_is_not_for(configure: Callable[..., dict[str, Any]]) -> None:
    check_config(configure("task=sample", "task.by=planted", KEYS))
    check_config(configure("task=sample", "task.by=confused", LABELS))
    check_config(configure("task=sample", "task.by=mislabelled", WRONG))
    check_config(configure("task=sample", "task.by=backdoor", TRIGGER))
    with pytest.raises(NotApplicable):
        check_config(configure("task=class", KEYS))
