"""Splits: disjoint, complete, stable under seeds, deletion and growth, with about the shares that were asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechforget.data.corpora.speaker_split import speakers_apart, test_subset
from speechforget.data.split import drawn_share, split
from speechforget.errors import UserError

test_subset.__test__ = False  # type: ignore[attr-defined]  # a function of the package, not a test


def corpus(words: int = 4, speakers: int = 5, takes: int = 10, tested: int = 1) -> pd.DataFrame:
    """A full grid; the last `tested` takes are the test subset."""
    rows = [
        {
            "id": f"w{word}/s{speaker}_{take}",
            "word": f"w{word}",
            "speaker": f"s{speaker}",
            "subset": "test" if take >= takes - tested else "",
        }
        for word in range(words)
        for speaker in range(speakers)
        for take in range(takes)
    ]
    table = pd.DataFrame(rows, dtype=str).sort_values("id", ignore_index=True)
    return table.assign(sha1=table["id"])


@settings(deadline=None, max_examples=30)
@given(
    words=st.integers(2, 5),
    speakers=st.integers(1, 6),
    takes=st.integers(3, 9),
    holdout=st.floats(0, 0.5),
    validation=st.floats(0, 0.4),
    seed=st.integers(0, 10**6),
)
def test_subsets_are_complete_and_hold_their_shares_of_every_label(
    words, speakers, takes, holdout, validation, seed
) -> None:
    table = corpus(words, speakers, takes)
    result = split(table, "word", validation, holdout, "include", seed)
    assert list(result["id"]) == list(table["id"])
    assert set(result["subset"]) <= {"train", "validation", "holdout", "test"}
    assert (result["subset"] == "test").equals(table["subset"] == "test")
    left = result[result["subset"] != "test"]
    assert set(left.loc[left["subset"] == "train", "label"]) == set(result["label"])
    for subset, share in (("holdout", holdout), ("validation", validation / (1 - holdout))):
        for _, each in left.groupby("word"):
            expected, count = share * len(each), (each["subset"] == subset).sum()
            assert abs(count - expected) <= max(3 * np.sqrt(expected * (1 - share)), 1) + 1e-9
            assert count >= 1 or expected < 0.5 or len(each) == 1
        left = left[left["subset"] != subset]


def test_the_seed_alone_decides_and_the_order_of_rows_does_not() -> None:
    table = corpus()
    first = split(table, "word", seed=3).set_index("id")["subset"]
    assert first.equals(split(table, "word", seed=3).set_index("id")["subset"])
    shuffled = table.sample(frac=1, random_state=1).reset_index(drop=True)
    assert first.equals(split(shuffled, "word", seed=3).set_index("id")["subset"].reindex(first.index))
    assert not first.equals(split(table, "word", seed=4).set_index("id")["subset"])


@pytest.mark.parametrize("seed", range(3))
def test_deleting_or_adding_recordings_moves_no_other(seed: int) -> None:
    """Delete 30 of 900 at random, or all of a speaker: no other recording changes its subset."""
    table = corpus(words=10, speakers=10, takes=9, tested=0)
    drawn = np.where(drawn_share(table, 0.2, "word", "test", seed), "test", "")
    table["subset"] = drawn
    whole = split(table, "word", seed=seed).set_index("id")["subset"]
    assert 0.1 < (whole == "test").mean() < 0.3
    for gone in (table.sample(30, random_state=seed).index, table.index[table["speaker"] == "s3"]):
        less = table.drop(index=gone)
        assert (drawn_share(less, 0.2, "word", "test", seed) == (less["subset"] == "test")).all()
        again = split(less, "word", seed=seed).set_index("id")["subset"]
        assert again.equals(whole[again.index])


def test_few_recordings_still_give_every_subset_some() -> None:
    rows = [
        (f"w{word}/{take}", f"w{word}", count) for word, count in enumerate((1, 2, 3, 5, 8)) for take in range(count)
    ]
    table = pd.DataFrame(rows, columns=["id", "word", "count"])
    for seed in range(30):
        taken = table.assign(taken=drawn_share(table, 0.2, "word", seed)).groupby("count")["taken"].sum()
        assert taken[1] == 0 and taken[2] <= 1
        assert (taken[[3, 5, 8]] >= 1).all() and taken[8] < 8


def test_every_row_is_held_out_with_the_same_probability() -> None:
    table = corpus(words=3, speakers=4, takes=6, tested=0)
    counts = sum(drawn_share(table, 0.2, "word", seed).astype(int) for seed in range(100))
    assert np.abs(counts / 100 - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 100)


def windows(*starts: float, seconds: float = 1.0) -> pd.DataFrame:
    """The corpus, and windows of one long recording of w0."""
    cut = [
        {"id": f"long@{start:.3f}", "path": "long", "start": start, "word": "w0", "speaker": "s0", "subset": ""}
        for start in starts
    ]
    table = corpus().assign(start=0.0, path=lambda table: table["id"])
    table = pd.concat(
        [table, pd.DataFrame(cut).assign(sha1=[f"{number}" for number in range(len(cut))])], ignore_index=True
    )
    return table.assign(seconds=seconds).sort_values("id", ignore_index=True)


@pytest.mark.parametrize("copies", ["include", "ignore"])
def test_windows_that_overlap_are_one_unit(copies: str) -> None:
    """Directly or through others; those that only touch are apart."""
    table = windows(0.0, 0.5, 1.4, 2.4, 3.4, 4.3)
    for seed in range(5):
        result = split(table, "word", 0.2, 0.3, copies, seed).set_index("id")
        units = result.loc[result.index.str.startswith("long"), "unit"]
        assert units.tolist() == ["long@0.000"] * 3 + ["long@2.400", "long@3.400", "long@3.400"]
        assert result.groupby("unit")["subset"].nunique().max() == 1


@pytest.mark.parametrize("copies", ["include", "ignore"])
def test_parts_of_a_file_that_all_begin_at_its_beginning_are_one_unit(copies: str) -> None:
    """A manifest may list a file several times by ids of its own, with an end or a length alone, or whole."""
    table = windows(0.0, 1.0, 2.0, 3.0).drop(columns="start")
    for lengths in (table.assign(seconds=table["sha1"].map(len) * 0.5), table.drop(columns="seconds")):
        result = split(lengths, "word", copies=copies)
        assert result.loc[result["path"] == "long", "unit"].nunique() == 1
    torn = table.assign(subset=table["id"].map({"long@1.000": "test"}).fillna(table["subset"]))
    with pytest.raises(
        UserError, match=r"'long@0.000' \(0 s to 1 s, train\) and 'long@1.000' \(0 s to 1 s, test\) overlap"
    ):
        split(torn, "word", copies=copies)


def test_overlap_and_copies_chain_into_one_unit() -> None:
    table = windows(0.0, 0.5, 5.0, 5.5, 9.0)
    table["sha1"] = table["sha1"].mask(table["id"].isin(["long@0.500", "long@5.000"]), "same")
    units = split(table, "word").set_index("id")["unit"]
    assert units[["long@0.000", "long@0.500", "long@5.000", "long@5.500"]].eq("long@0.000").all()
    assert units["long@9.000"] == "long@9.000"


def test_windows_that_overlap_across_subsets_are_refused_by_name() -> None:
    table = windows(0.0, 0.5, 3.0)
    known = corpus().set_index("id")["subset"].reindex(table["id"]).fillna("").reset_index(drop=True)
    for subsets, refused in (
        ({"long@0.500": "test"}, True),
        ({"long@3.000": "test"}, False),
        ({"long@0.000": "test", "long@0.500": "test"}, False),
    ):
        table["subset"] = table["id"].map(subsets).fillna(known)
        if not refused:
            split(table, "word")
            continue
        with pytest.raises(
            UserError, match=r"'long@0.000' \(0 s to 1 s, train\) and 'long@0.500' \(0.5 s to 1.5 s, test\) overlap"
        ):
            split(table, "word")


def test_the_corpus_own_validation_is_kept() -> None:
    table = corpus()
    table.loc[table["speaker"] == "s0", "subset"] = "validation"
    result = split(table, "word", validation=0.3)
    assert (result["subset"] == "validation").equals(table["subset"] == "validation")


def test_nothing_held_out() -> None:
    assert set(split(corpus(), "word", validation=0, holdout=0)["subset"]) == {"train", "test"}


def test_a_label_keeps_something_to_train_on() -> None:
    table = pd.concat(
        [corpus(), pd.DataFrame([{"id": "rare", "word": "rare", "speaker": "s0", "subset": "", "sha1": "rare"}])],
        ignore_index=True,
    )
    for seed in range(20):
        result = split(table, "word", validation=0.4, holdout=0.5, seed=seed)
        assert result.set_index("id").at["rare", "subset"] == "train"


def test_labels_that_are_never_trained_on_are_left_out() -> None:
    table = corpus()
    table.loc[table["speaker"] == "s1", "subset"] = "test"
    result = split(table, "speaker")
    assert "s1" not in set(result["label"])
    assert len(result) == len(table) - (table["speaker"] == "s1").sum()


def test_utterances_without_the_label_are_left_out() -> None:
    table = corpus()
    table.loc[:9, "speaker"] = ""
    assert len(split(table, "speaker")) == len(table) - 10


@settings(deadline=None, max_examples=20)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_copies_share_a_subset(data, seed) -> None:
    table = corpus(words=3, speakers=3, takes=6)
    pool = table.index[table["subset"] == ""].tolist()
    for name in ("a", "b", "c"):
        table.loc[data.draw(st.lists(st.sampled_from(pool), min_size=2, max_size=4, unique=True)), "sha1"] = name
    result = split(table, "word", 0.2, 0.3, "include", seed)
    assert len(result) == len(table)
    assert result.groupby("sha1")["subset"].nunique().max() == 1
    assert result.groupby("sha1")["unit"].nunique().max() == 1


def test_a_copy_of_a_test_recording_is_not_trained_on() -> None:
    table = corpus()
    tested, trained = table.index[table["subset"] == "test"][0], table.index[table["subset"] == ""][0]
    table.loc[trained, "sha1"] = table.loc[tested, "sha1"]
    result = split(table, "word")
    assert table.loc[trained, "id"] not in set(result["id"])
    assert table.loc[tested, "id"] in set(result["id"])
    ignored = split(table, "word", copies="ignore")
    assert len(ignored) == len(table)
    assert ignored["unit"].equals(ignored["id"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "wrod"}, "did you mean 'word'"),
        ({"label": "subset"}, "does not have"),
        ({"validation": 0.5, "holdout": 0.5}, "leave something to train on"),
        ({"holdout": -0.1}, "must not be negative"),
        ({"copies": "maybe"}, "include or ignore"),
    ],
)
def test_impossible_splits_say_why(change, words) -> None:
    with pytest.raises(UserError, match=words):
        split(corpus(), **{"label": "word", **change})


def test_nothing_to_test_on_or_to_tell_apart_says_so() -> None:
    with pytest.raises(UserError, match="left to test on"):
        split(corpus(tested=0), "word")
    with pytest.raises(UserError, match="at least two"):
        split(corpus(words=1), "word")


@given(
    counts=st.lists(st.integers(1, 30), min_size=3, max_size=12),
    test=st.floats(0.01, 0.5),
    validation=st.floats(0, 0.4),
    seed=st.integers(0, 100),
)
def test_speakers_are_kept_apart_in_shares(counts: list[int], test: float, validation: float, seed: int) -> None:
    speakers = pd.Series([f"s{number}" for number, count in enumerate(counts) for _ in range(count)])
    shares = {"test": test, "validation": validation, "train": 1 - test - validation}
    subset = speakers_apart(speakers, shares, seed)
    assert (subset.groupby(speakers).nunique() == 1).all()
    assert set(subset) == {name for name, share in shares.items() if share > 0}
    assert subset.equals(speakers_apart(speakers, shares, seed))
    longest = max(counts) / sum(counts)
    if len(counts) * min(share for share in shares.values() if share > 0) > 3 and longest < 0.1:
        assert all(abs((subset == name).mean() - share) <= longest + 1e-9 for name, share in shares.items())
    shuffled = speakers.sample(frac=1, random_state=0)
    assert subset.equals(speakers_apart(shuffled, shares, seed).sort_index())


def test_too_few_speakers_to_keep_apart() -> None:
    table = pd.DataFrame({"id": ["a", "b"], "speaker": ["s", "s"], "emotion": ["x", "y"]})
    with pytest.raises(UserError, match="1 speaker"):
        test_subset(table, "emotion", 0.2, 0)


def test_the_unit_of_copies_is_the_smallest_id_among_them() -> None:
    drawn = np.random.default_rng(0)
    ids = [f"{word}/{number}" for number, word in enumerate(drawn.choice(["yes", "no", "\u00e9t\u00e9"], 300))]
    table = pd.DataFrame(
        {
            "id": ids,
            "word": [identity.partition("/")[0] for identity in ids],
            "sha1": drawn.choice(100, 300).astype(str),
        }
    )
    table["subset"] = np.where(drawn.random(300) < 0.1, "test", "")
    divided = split(table, "word")
    assert (
        divided["unit"].tolist()
        == divided["sha1"].map({sha1: min(copies) for sha1, copies in table.groupby("sha1")["id"]}).tolist()
    )
