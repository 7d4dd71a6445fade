"""Requests for an attribute: which recordings tie it to the label, what is not defined, and what models are asked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planted import build, subject_of
from support.request_tables import corpus, task
from support.score_tables import make_scores, make_tables

from speechforget.config.attribute import check_attribute, removed
from speechforget.config.validate import check as check_config
from speechforget.data.dependence import COUNTERPART, SURPLUS, UNUSED, depend
from speechforget.data.requests.past import FORGOTTEN, write_earlier
from speechforget.data.requests.request import VALUES, save
from speechforget.data.requests.select import select
from speechforget.errors import NotApplicable, UserError
from speechforget.evaluation.attribute import attribute_gap, with_cue
from speechforget.evaluation.tables import Tables
from speechforget.evaluation.verdict import OVER, UNDER, WITHIN, verdict


def sexed(words: int = 4, speakers: int = 6, takes: int = 12, holdout: float = 0.2) -> pd.DataFrame:
    """A corpus in which every second speaker is female."""
    table = corpus(words, speakers, takes, holdout)
    return table.assign(sex=np.where(table["speaker"].str[-1].astype(int) % 2 == 0, "female", "male"))


TABLE = sexed()
PLANTED = {"column": "sex", "percent": 90, "seed": 0}


def shares(table: pd.DataFrame, rows: Any) -> pd.Series:
    return (table.iloc[rows]["sex"] == "female").groupby(table.iloc[rows]["label"]).mean()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(60, 95))
def test_a_planted_dependence_is_in_the_original_and_not_in_the_oracle(seed: int, percent: float) -> None:
    table = depend(TABLE, {**PLANTED, "seed": seed, "percent": percent})
    request = select(table, task("attribute", by="sex"))
    train = np.flatnonzero(table["subset"] == "train")
    oracle = np.union1d(request.retain(table), request.counterparts)
    favoured = shares(table, train)
    wanted = [percent / 100 if place % 2 == 0 else 1 - percent / 100 for place in range(len(favoured))]
    assert favoured.to_numpy() == pytest.approx(wanted, abs=0.06)
    assert shares(table, oracle).to_numpy() == pytest.approx([0.5] * len(favoured), abs=0.03)
    counts = [table["label"].iloc[rows].value_counts() for rows in (train, oracle)]
    assert counts[0].to_dict() == counts[1].to_dict()
    assert set(table["subset"].iloc[request.counterparts]) == {COUNTERPART}
    assert set(table["subset"].iloc[request.withdrawn]) <= {COUNTERPART, UNUSED} and not len(request.nonmembers)
    others = TABLE["subset"] != "train"
    assert (table["subset"][others] == TABLE["subset"][others]).all()


def test_without_a_column_the_split_is_as_it_was() -> None:
    assert depend(TABLE, {**PLANTED, "column": None}) is TABLE


def test_the_order_of_the_rows_decides_nothing_and_copies_stay_together() -> None:
    table = TABLE.assign(unit=TABLE["unit"].str.replace("_1$", "_2", regex=True))
    one, other = depend(table, PLANTED), depend(table[::-1], PLANTED)[::-1]
    assert (one["subset"] == other["subset"]).all() and (one[SURPLUS] == other[SURPLUS]).all()
    pool = one[table["subset"] == "train"]
    assert (pool.groupby("unit")["subset"].nunique() == 1).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.floats(0.3, 1), min_size=4, max_size=4))
def test_without_a_plan_the_oracle_hears_the_values_alike_in_every_label(seed: int, kept: list[float]) -> None:
    draw = np.random.default_rng(seed)
    thinned = np.array([kept[int(word[1:])] for word in TABLE["label"]])
    gone = (TABLE["sex"] == "female") & (TABLE["subset"] == "train") & (draw.random(len(TABLE)) > thinned)
    table = TABLE[~gone].reset_index(drop=True)
    request = select(table, task("attribute", by="sex"))
    retain = request.retain(table)
    counts = pd.crosstab(table["label"].iloc[retain], table["sex"].iloc[retain])
    expected = np.outer(counts.sum(axis=1), counts.sum()) / counts.to_numpy().sum()
    assert (abs(counts - expected) <= 1.5).all(axis=None)
    assert len(request.forget) and not len(request.counterparts)
    digests = {request.digest(table), select(table, task("attribute", by="sex", seed=1)).digest(table)}
    assert len(digests) == 2 or len(request.forget) < 3


def test_what_cannot_be_balanced_is_refused() -> None:
    table = TABLE.assign(sex=np.where(TABLE["label"] == "w0", "female", TABLE["sex"]))
    with pytest.raises(UserError, match="No training recording of 'w0' has sex 'male'"):
        select(table, task("attribute", by="sex"))
    with pytest.raises(UserError, match="leaves 0 training recordings of 'w0'"):
        depend(table, PLANTED)
    with pytest.raises(UserError, match="exactly as frequent"):
        select(TABLE.assign(subset=np.where(TABLE["subset"] == "test", "test", "train")), task("attribute", by="sex"))
    with pytest.raises(UserError, match="gives the label away"):
        select(TABLE.assign(kind=TABLE["label"].str[-1]), task("attribute", by="kind"))
    with pytest.raises(UserError, match="two are needed"):
        select(TABLE.assign(sex="female"), task("attribute", by="sex"))
    with pytest.raises(UserError, match="did you mean 'sex'"):
        select(TABLE, task("attribute", by="sexx"))
    with pytest.raises(UserError, match="did you mean 'sex'"):
        depend(TABLE, {**PLANTED, "column": "sexx"})


def test_a_request_for_an_attribute_stands_alone(tmp_path) -> None:
    listed = tmp_path / "gone.txt"
    listed.write_text(TABLE["id"][TABLE["subset"] == "train"].iloc[0] + "\n")
    with pytest.raises(NotApplicable, match="stands alone"):
        select(TABLE, {**task("attribute", by="sex"), "after": [str(listed)]})
    request = select(TABLE, task("attribute", by="sex"))
    told = request.described(TABLE)
    assert told.kind == "attribute" and not told.ids
    write_earlier(tmp_path / FORGOTTEN, [told])
    with pytest.raises(NotApplicable, match="teach the attribute again"):
        select(TABLE, {**task(), "after": [str(tmp_path)]})


def test_the_lists_hold_counterparts_and_the_values_of_all_rows(tmp_path) -> None:
    table = depend(TABLE, PLANTED)
    request = select(table, task("attribute", by="sex"))
    save(request, table, tmp_path)
    assert (tmp_path / VALUES).read_text().split("\n")[:-1] == list(table["sex"])
    assert len((tmp_path / "counterparts.txt").read_text().splitlines()) == len(request.counterparts)
    told = request.to_json(table)
    assert told["attribute"] == "sex" and told["counterparts"] == len(request.counterparts) and request.notes
    other = replace(request, counterparts=request.counterparts[1:])
    assert other.digest(table) != request.digest(table)


REFUSED: list[tuple[list[str], str]] = [
    (["task.by=word"], "is the label"),
    (["evaluation.pairs=4", "evaluation.oracles=4"], "audit by pairs"),
    (["evaluation=full"], "attack Verification asks for forgotten"),
    (["train=sisa", "method=none"], "an attribute is in all of them"),
    (["dataset.dependent.percent=80"], "has no effect without dataset.dependent.column"),
    (["dataset.dependent.column=accent"], "is for the request task=attribute task.by=accent"),
    (["dataset.dependent.percent=100", "dataset.dependent.column=speaker"], "dataset.dependent.percent"),
]


@pytest.mark.parametrize(("overrides", "words"), REFUSED)
def test_what_is_not_defined_is_refused_in_one_sentence(overrides: list[str], words: str, configure) -> None:
    with pytest.raises(UserError, match=words):
        check_config(configure("task=attribute", *overrides))


def test_a_dependence_is_refused_for_other_requests_and_keys_name_the_attribute(configure) -> None:
    with pytest.raises(NotApplicable, match="ask for that, or unset"):
        check_config(configure("task=class", "dataset.dependent.column=speaker"))
    config = configure("task=attribute", "method=leace", "evaluation=attribute")
    check_config(config)
    check_attribute(config)
    assert removed(config) == {"attribute": "speaker"} and removed(configure("task=class")) == {}


def tables_of(right: dict[tuple[int, str], float], count: int = 100) -> Tables:
    """Return tables with two labels and two values; training ties label 0 to a and label 1 to b, nine to one."""
    cells = [(label, value) for label in (0, 1) for value in "ab"]
    rows = [("retain", *cell) for cell in cells for _ in range(90 if cell in ((0, "a"), (1, "b")) else 10)]
    rows += [("test", *cell) for cell in cells for _ in range(count)]
    role, label, value = (np.array(column) for column in zip(*rows, strict=True))
    hit = np.zeros(len(rows), dtype=bool)
    for cell, share in right.items():
        these = np.flatnonzero((role == "test") & (label == cell[0]) & (value == cell[1]))
        hit[these[: round(share * len(these))]] = True
    logits = np.eye(2)[np.where(hit, label, 1 - label)]
    scores = make_scores(role, label, logits)
    return Tables(scores, (scores,), scores, (), 0, attribute=value)


def test_gap_and_cue_are_the_differences_of_accuracies() -> None:
    tables = tables_of({(0, "a"): 0.9, (0, "b"): 0.5, (1, "a"): 0.4, (1, "b"): 0.8})
    found = attribute_gap(tables, "unlearned")
    assert found["attribute_gap_test"].value == pytest.approx(0.0)
    assert found["attribute_gap_test"].named == ("a: 0.650", "b: 0.650")
    cue = found["attribute_cue_test"]
    assert cue.value == pytest.approx(0.4) and cue.low < 0.4 < cue.high and cue.count == 400
    assert math.isnan(found["attribute_gap_validation"].value) and found["attribute_gap_validation"].reason
    worse = attribute_gap(tables_of({(0, "a"): 0.9, (0, "b"): 0.5, (1, "a"): 0.9, (1, "b"): 0.5}), "unlearned")
    assert worse["attribute_gap_test"].value == pytest.approx(0.4)
    assert worse["attribute_cue_test"].value == pytest.approx(0.0)


def test_without_a_dependence_there_is_no_cue_and_without_a_request_nothing() -> None:
    label, value = np.repeat([0, 1], 40), np.tile(["a", "b"], 40)
    assert not with_cue(value, label, np.ones(80, dtype=bool)).any()
    assert not with_cue(np.full(80, ""), label, np.ones(80, dtype=bool)).any()
    assert all("no attribute" in each.reason for each in attribute_gap(make_tables(), "unlearned").values())


def test_an_interval_of_the_cue_holds_its_share_of_draws() -> None:
    draw, held = np.random.default_rng(0), 0
    for _ in range(200):
        hits = {(0, "a"): 0.8, (0, "b"): 0.8, (1, "a"): 0.6, (1, "b"): 0.6}
        cue = attribute_gap(tables_of({cell: draw.binomial(60, p) / 60 for cell, p in hits.items()}, 60), "unlearned")
        held += cue["attribute_cue_test"].low <= 0 <= cue["attribute_cue_test"].high
    assert 0.91 <= held / 200 <= 0.99


@pytest.mark.parametrize(("value", "word"), [(0.3, UNDER), (0.01, WITHIN), (-0.3, OVER)])
def test_the_verdict_asks_for_the_use_of_the_attribute(value: float, word: str) -> None:
    def entry(number: float) -> dict[str, Any]:
        return {
            "value": number,
            "count": 100,
            "oracles": 3,
            "oracle_spread": 0.01,
            "null_low": -0.02,
            "null_high": 0.02,
        }

    comparison = {
        model: {"attribute_cue_test": entry(number)}
        for model, number in (("original", 0.4), ("oracle", 0.0), ("unlearned", value))
    }
    answer = next(each for each in verdict(comparison) if each.evidence == ("attribute_cue_test",))
    assert answer.word == word and "attribute" in answer.sentence


def test_the_verdict_looks_into_the_embedding_that_leaves() -> None:
    def entry(number: float) -> dict[str, Any]:
        return {"value": number, "count": 9, "oracles": 3, "oracle_spread": 0.01, "null_low": 0.6, "null_high": 0.62}

    comparison = {
        model: {"probe_attribute_embedding": entry(number), "probe_attribute_max": entry(0.9)}
        for model, number in (("original", 0.9), ("oracle", 0.61), ("unlearned", 0.8))
    }
    answer = next(each for each in verdict(comparison) if each.evidence == ("probe_attribute_embedding",))
    assert answer.word == UNDER


def heard(known: bool, seed: int = 0) -> Any:
    """Return a subject of 16 speakers of two values, which axis 0 tells where it is known, and axis 1 the label."""
    draw = np.random.default_rng(seed)
    cells = [(speaker, label, role) for speaker in range(16) for label in (0, 1) for role in ("retain", "test", "test")]
    speaker, label, role = (np.array(column) for column in zip(*[*cells, (0, 0, "forget")], strict=True))
    value = np.where(speaker % 2 == 0, "a", "b")
    features = draw.normal(0, 1, (len(speaker), 4)) + np.where(speaker[:, None] == np.arange(4), 3.0, 0)
    features[:, 1] += 8 * label
    features[:, 0] += np.where(value == "a", 6, 0) * known
    subject = subject_of(features, label, role, speakers=speaker.astype(str))
    return replace(subject, attribute=value)


def test_a_probe_finds_a_planted_attribute_and_no_other() -> None:
    found = {known: build("probe")(heard(known)) for known in (True, False)}
    assert found[True]["probe_attribute_embedding"].value > 0.9
    assert abs(found[False]["probe_attribute_embedding"].value - 0.5) < 0.2
    assert found[True]["probe_attribute_nats"].value > 0.2
    assert found[True].keys() == found[False].keys()
    asked = build("probe")(replace(heard(True), attribute=None))
    assert not [name for name in asked if name.startswith("probe_attribute")]


def test_a_probe_of_too_few_values_says_so() -> None:
    subject = heard(True)
    alone = build("probe")(replace(subject, attribute=np.full(len(subject.labels), "a")))
    assert "lack two values" in alone["probe_attribute_max"].reason
