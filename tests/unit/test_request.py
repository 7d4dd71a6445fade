"""Requests: nested, disjoint, proportionate, readable, and refused with a reason when they make no sense."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.request_tables import TABLE, check, corpus, labels, task

from speechforget.data.requests.select import select
from speechforget.data.split import split
from speechforget.errors import UserError


@settings(deadline=None, max_examples=30)
@given(small=st.floats(0.3, 40), large=st.floats(0.3, 40), balanced=st.booleans(), seed=st.integers(0, 10**6))
def test_more_percent_include_fewer(small, large, balanced, seed) -> None:
    small, large = sorted((small, large))
    few, many = (select(TABLE, task(percent=percent, balanced=balanced, seed=seed)) for percent in (small, large))
    trained = (TABLE["subset"] == "train").sum()
    for request, percent in ((few, small), (many, large)):
        check(request)
        assert len(request.forget) == max(1, round(percent / 100 * trained))
        counts = labels(request.forget)
        if balanced and len(counts) == 5:
            assert max(counts.values()) - min(counts.values()) <= 1
    assert set(few.forget) <= set(many.forget)


@settings(deadline=None, max_examples=20)
@given(percent=st.floats(1, 30), balanced=st.booleans(), seed=st.integers(0, 1000))
def test_nonmembers_have_the_proportions_of_the_request(percent, balanced, seed) -> None:
    request = select(TABLE, task(percent=percent, balanced=balanced, seed=seed))
    asked, matched = pd.Series(labels(request.forget)), pd.Series(labels(request.nonmembers))
    there = TABLE[TABLE["subset"] == "holdout"]["label"].value_counts()
    assert set(asked.index) == set(matched.index)
    whole = (there[asked.index] / asked).min() * asked.sum()
    wanted = asked / asked.sum() * matched.sum()
    assert matched.sum() >= whole - 2.5  # as many as in exact proportion, to rounding
    assert (wanted - matched).clip(lower=0).sum() <= 0.05 * matched.sum() + 2.5


def test_a_request_depends_on_its_seed_and_not_on_other_subsets() -> None:
    one, same, other = (select(TABLE, task(percent=10, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.forget, same.forget)
    assert np.array_equal(one.nonmembers, same.nonmembers)
    assert not np.array_equal(one.forget, other.forget)
    without_test = TABLE[TABLE["subset"] != "test"].reset_index(drop=True)
    again = select(without_test, task(percent=10, seed=1))
    assert set(without_test["id"].iloc[again.forget]) == set(TABLE["id"].iloc[one.forget])


def test_classes_are_forgotten_whole() -> None:
    request = select(TABLE, task("class", classes=["w1", "w3"]))
    check(request)
    assert request.forgotten == ("w1", "w3")
    assert request.name == "class-w1-w3"
    assert set(request.forget) == set(np.flatnonzero((TABLE["subset"] == "train") & TABLE["label"].isin(["w1", "w3"])))
    assert set(request.nonmembers) == set(
        np.flatnonzero((TABLE["subset"] == "holdout") & TABLE["label"].isin(["w1", "w3"]))
    )
    assert np.array_equal(
        select(TABLE, task("class", classes="w1")).forget, select(TABLE, task("class", classes=["w1"])).forget
    )


def test_more_drawn_classes_include_fewer() -> None:
    drawn = [select(TABLE, task("class", number=number, seed=4)).forgotten for number in range(1, 5)]
    assert [len(classes) for classes in drawn] == [1, 2, 3, 4]
    assert all(set(few) < set(many) for few, many in pairwise(drawn))
    assert len({select(TABLE, task("class", seed=seed)).forgotten for seed in range(20)}) > 2


def test_speakers_and_other_columns() -> None:
    request = select(TABLE, task(by="speaker", values=["s2"]))
    check(request)
    assert request.forgotten == ()
    assert set(TABLE["speaker"].iloc[request.forget]) == set(TABLE["speaker"].iloc[request.nonmembers]) == {"s2"}
    assert len(request.forget) == ((TABLE["subset"] == "train") & (TABLE["speaker"] == "s2")).sum()
    assert len(set(TABLE["speaker"].iloc[select(TABLE, task(by="speaker", number=2)).forget])) == 2
    assert set(TABLE["take"].iloc[select(TABLE, task(by="take", values=[3])).forget]) == {"3"}
    accents = TABLE.assign(
        accent=TABLE["speaker"].map(lambda speaker: "yes" if speaker in {"s0", "s1"} else "Scots, Highland")
    )
    request = select(accents, task(by="accent", values="Scots, Highland"))
    check(request, accents)
    assert request.name == "sample-accent-Scots_Highland"
    assert set(accents["speaker"].iloc[request.forget]) == {"s2", "s3", "s4", "s5"}
    assert set(accents["accent"].iloc[select(accents, task(by="accent")).forget]) < {"yes", "Scots, Highland"}


def test_speakers_can_be_samples_of_a_speaker_classifier_only_in_part() -> None:
    table = split(TABLE.drop(columns=["label", "unit"]).assign(sha1=TABLE["id"]), "speaker", holdout=0)
    for wrong in (task(by="speaker"), task(by="speaker", share=[10, 40])):
        with pytest.raises(UserError, match=r"leaves no training utterance of s\d.*task=class"):
            select(table, wrong)
    check(select(table, task(by="word", values=["w2"])), table)
    check(select(table, task("class")), table)


def test_a_number_that_several_names_equal_is_no_name() -> None:
    table = TABLE.assign(speaker=TABLE["speaker"].replace({"s2": "12e45678", "s3": "99e45678"}))
    with pytest.raises(UserError, match="look like numbers in quotes"):
        select(table, task(by="speaker", values=[float("12e45678")]))
    one = table.assign(speaker=table["speaker"].replace("99e45678", "s3"))
    assert set(one["speaker"].iloc[select(one, task(by="speaker", values=[float("12e45678")])).forget]) == {"12e45678"}


def test_a_column_does_not_hide_another_kind_of_request() -> None:
    table = TABLE.assign(random="a")
    assert select(table, task(percent=10)).name == "sample-random-10percent-seed0"


@pytest.mark.parametrize("value", ["007", "12e45678", "1e3", "0x1f", "3.0", "on", "null", "None", "nan", ".nan", "1_0"])
def test_names_that_yaml_takes_for_something_else_are_found_or_to_be_quoted(value: str) -> None:
    table = TABLE.assign(speaker=TABLE["speaker"].replace("s2", value))
    said = yaml.safe_load(f"[{value}]")
    quoted = select(table, task(by="speaker", values=[value]))
    if said in ([True], [None], [31]) or said[0] != said[0]:
        with pytest.raises(UserError, match=r"in quotes|the training subset lacks"):
            select(table, task(by="speaker", values=said))
    else:
        assert np.array_equal(select(table, task(by="speaker", values=said)).forget, quoted.forget)


def test_names_are_found_in_either_unicode_form() -> None:
    table = TABLE.assign(speaker=TABLE["speaker"].replace("s2", "Jos\N{LATIN SMALL LETTER E WITH ACUTE}"))
    requests = [
        select(table, task(by="speaker", values=[name]))
        for name in ("Jos\N{LATIN SMALL LETTER E WITH ACUTE}", "Jose\u0301 ")
    ]
    assert np.array_equal(requests[0].forget, requests[1].forget)


def test_a_pattern_names_recordings_by_their_ids() -> None:
    by_pattern, by_speaker = (
        select(TABLE, task(by="pattern", pattern="/s2_")),
        select(TABLE, task(by="speaker", values=["s2"])),
    )
    check(by_pattern)
    assert np.array_equal(by_pattern.forget, by_speaker.forget) and np.array_equal(
        by_pattern.nonmembers, by_speaker.nonmembers
    )
    assert by_pattern.name == "sample-pattern-_s2_"


def test_a_corpus_without_speakers_says_how_to_find_them() -> None:
    for table in (TABLE.drop(columns="speaker"), TABLE.assign(speaker="")):
        with pytest.raises(UserError, match=r"dataset\.corpus\.speaker_pattern=.*task\.by=pattern"):
            select(table, task(by="speaker"))


def copied() -> pd.DataFrame:
    """Two training utterances of w0 and one of w1 are copies of one another."""
    table = TABLE.copy()
    trained = table[table["subset"] == "train"]
    same = [*trained.index[trained["label"] == "w0"][:2], trained.index[trained["label"] == "w1"][0]]
    table.loc[same, "unit"] = table.loc[same[0], "id"]
    return table


def test_copies_come_along(tmp_path: Path) -> None:
    table = copied()
    same = set(table.index[table["unit"].duplicated(keep=False)])
    (tmp_path / "ids.txt").write_text(table["id"].iloc[min(same)] + "\n")
    assert set(select(table, task(by="ids", ids=tmp_path / "ids.txt")).forget) == same
    assert same <= set(select(table, task("class", classes=["w1"])).forget)
    for seed in range(30):
        forget = set(select(table, task(percent=20, seed=seed)).forget)
        assert forget & same in (set(), same)


UNEQUAL = corpus(words=3, speakers=12, takes=7, holdout=0.1)
UNEQUAL = UNEQUAL[UNEQUAL["speaker"].str[1:].astype(int) * 4 + UNEQUAL["take"].astype(int) < 45].reset_index(drop=True)


@settings(deadline=None, max_examples=40)
@given(
    low=st.floats(0.5, 50),
    width=st.floats(0, 20),
    fewest=st.integers(0, 15),
    seed=st.integers(0, 10**6),
    copies=st.booleans(),
)
def test_drawn_speakers_hold_the_share_that_was_asked_for_or_nobody_could(low, width, fewest, seed, copies) -> None:
    table = UNEQUAL.copy()
    if copies:  # of one speaker, so that the sums stay sums
        mine = table.index[(table["subset"] == "train") & (table["speaker"] == "s3")]
        table.loc[mine[:2], "unit"] = table.loc[mine[0], "id"]
    counts = table[table["subset"] == "train"].groupby("speaker").size()
    total, high = int(counts.sum()), low + width
    sums = {0}
    for count in counts[counts >= fewest]:
        sums |= {already + count for already in sums}
    possible = any(low * total <= 100 * held <= high * total for held in sums)
    chosen = task(by="speaker", share=[low, high], fewest=fewest, seed=seed)
    if not possible:
        with pytest.raises(UserError, match=r"cannot be met|has task.fewest"):
            select(table, chosen)
        return
    request = select(table, chosen)
    check(request, table)
    assert low * total <= 100 * len(request.forget) + 1e-6 and 100 * len(request.forget) <= high * total + 1e-6
    speakers = set(table["speaker"].iloc[request.forget])
    assert set(request.forget) == set(np.flatnonzero((table["subset"] == "train") & table["speaker"].isin(speakers)))
    assert counts[list(speakers)].min() >= fewest
    assert np.array_equal(request.forget, select(table, chosen).forget)


def test_a_share_is_drawn_in_the_order_of_the_number() -> None:
    """The first drawn speakers are taken while they fit; a seed draws others."""
    asked = [select(UNEQUAL, task(by="speaker", share=[20, 60], seed=seed)) for seed in range(20)]
    for seed, request in enumerate(asked):
        first = select(UNEQUAL, task(by="speaker", number=1, seed=seed))
        assert set(first.forget) <= set(request.forget)
    assert len({request.name for request in asked}) > 5


def test_values_with_few_utterances_are_never_drawn_and_more_include_fewer() -> None:
    counts = UNEQUAL[UNEQUAL["subset"] == "train"].groupby("speaker").size()
    many = int((counts >= 12).sum())
    assert 2 < many < len(counts)
    drawn = [
        set(UNEQUAL["speaker"].iloc[select(UNEQUAL, task(by="speaker", number=number, fewest=12)).forget])
        for number in range(1, many + 1)
    ]
    assert all(few < more for few, more in pairwise(drawn))
    assert drawn[-1] == set(counts.index[counts >= 12])
    with pytest.raises(UserError, match=f"1 to {many}"):
        select(UNEQUAL, task(by="speaker", number=many + 1, fewest=12))


def test_copies_shared_by_speakers_count(caplog) -> None:
    """A copy of a drawn speaker's recording under another name comes along and counts for the share."""
    even = TABLE.assign(
        subset=np.where(TABLE["subset"] == "test", "test", np.where(TABLE["take"] < "7", "train", "holdout"))
    )
    table = even.copy()
    trained = table[table["subset"] == "train"]
    for speaker in range(6):  # everybody's first recording is a copy of the next one's second
        mine, other = (trained.index[trained["speaker"] == f"s{number % 6}"] for number in (speaker, speaker + 1))
        table.loc[[mine[0], other[1]], "unit"] = f"copy{speaker}"
    request = select(table, task(by="speaker", number=1))
    own = select(even, task(by="speaker", number=1))
    assert len(request.forget) == len(own.forget) + 2
    share = 100 * len(request.forget) / len(trained)
    again = select(table, task(by="speaker", share=[share - 0.01, share + 0.01]))
    assert abs(100 * len(again.forget) / len(trained) - share) < 0.011
    with pytest.raises(UserError, match=r"share exact copies|cannot be met"):
        select(table, task(by="speaker", share=[2 * share - 0.01, 2 * share + 0.01]))


def test_labels_without_holdout_are_left_out_of_the_match_and_named(caplog) -> None:
    table = TABLE.copy()
    table.loc[(table["subset"] == "holdout") & (table["label"] == "w2"), "subset"] = "test"
    with caplog.at_level(logging.WARNING):
        request = select(table, task(percent=20))
    assert "w2" in caplog.text
    assert set(labels(request.nonmembers, table)) == {"w0", "w1", "w3", "w4"}
    assert len(request.nonmembers) > 20


def test_without_holdout_there_are_no_nonmembers() -> None:
    table = corpus(holdout=0)
    for each in (task(percent=5), task("class"), task(by="speaker")):
        assert len(select(table, each).nonmembers) == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (task(percent=0), "above 0"),
        (task(percent=100), "below 100"),
        (task(percent="many"), "percent is many"),
        (task(percent=99, balanced=False), "leaves no training utterance|the whole training subset"),
        (task(by="speakr"), "did you mean 'speaker'"),
        (task(by="speaker", values=["s77"]), "there are s0, s1|did you mean"),
        (task(by="speaker", values=[7]), "look like numbers in quotes"),
        (task(by="speaker", number=0), "1 to 6"),
        (task(by="speaker", number=6), "the whole training subset"),
        (task(by="speaker", number=2, fewest=1000), "has task.fewest=1000 training utterances: 's[0-5]' has the most"),
        (task(by="speaker", fewest=-1), "fewest is -1"),
        (task(by="speaker", fewest="many"), "fewest is many"),
        (task(by="speaker", share=[5, 2]), r"task\.share must be \[lowest, highest\].*not \[5, 2\]"),
        (task(by="speaker", share=5), r"task\.share must be \[lowest, highest\].*not 5\."),
        (
            task(by="speaker", share=["a", "b"]),
            r"task\.share must be \[lowest, highest\], in percent.*not \['a', 'b'\]",
        ),
        (task(by="speaker", share=[0, 5]), r"task\.share must be \[lowest, highest\], in percent.*not \[0, 5\]"),
        (
            task(by="speaker", share=[1, 2]),
            "no speakers together have 2 to 3 of the 188 training utterances; the nearest possible numbers are 28",
        ),
        (task(by="speaker", share=[5, 20], values=["s1"]), "set only one of them"),
        (task(by="word", values=["w1"]), "task=class"),
        (task(by="speaker", values=[]), "is empty"),
        (task(by="published", balanced=False), "balanced"),
        (task(by="ids"), "is not set"),
        (task(by="ids", ids="nowhere.txt"), "cannot be read"),
        (task("class", classes=["w9"]), "w0, w1"),
        (task("class", classes=[True]), "holds true.*in quotes"),
        (task("class", classes=[None]), "holds null.*in quotes"),
        (task("class", classes=[float("nan")]), "holds NaN.*in quotes"),
        (task(by="pattern"), "pattern is None: give a regular expression"),
        (task(by="pattern", pattern="("), "is not a regular expression"),
        (task(by="pattern", pattern="w9/"), "matches no id: ids look like 'w0/s0_0'"),
        (task(by="pattern", pattern="s0_0$"), "matches 5 ids, none of them in training"),
        (task("class", classes=["w0", "w1", "w2", "w3", "w4"]), "all 5 classes"),
        (task("class", number=6), "1 to 5"),
        (task("class", number="two"), "1 to 5"),
        ({**task(), "kind": "clas"}, "sample, class or attribute"),
    ],
)
def test_requests_without_sense_say_why(wrong, words) -> None:
    with pytest.raises(UserError, match=words):
        select(TABLE, wrong)


def test_classes_by_share_come_nearest_to_it_and_grow_with_it() -> None:
    train = TABLE[TABLE["subset"] == "train"]
    before: set[str] = set()
    for percent in (0.1, 15, 30, 50, 70, 99):
        request = select(TABLE, {**task("class"), "percent": percent})
        chosen = set(request.forgotten)
        assert before <= chosen and 1 <= len(chosen) <= 4
        missed = abs(len(request.forget) - percent / 100 * len(train))
        for number in (len(chosen) - 1, len(chosen) + 1):
            if 1 <= number <= 4:
                other = select(TABLE, task("class", number=number))
                assert missed <= abs(len(other.forget) - percent / 100 * len(train))
        before = chosen
    with pytest.raises(UserError, match=r"task\.percent"):
        select(TABLE, {**task("class"), "percent": 0})
