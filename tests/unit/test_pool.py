"""The pool of an audit and its halves."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechforget.config.evaluation import Training, request_of, trainings
from speechforget.data.requests.pool import POOL, draw_pool, parts
from speechforget.data.requests.select import select
from speechforget.errors import UserError

SAMPLE = {"kind": "sample", "by": "random", "percent": 5, "balanced": True, "seed": 0}


def corpus(words=4, speakers=6, takes=5, copies=0):
    """A corpus of `takes` of every word by every speaker; the last `copies` recordings copy the first ones."""
    rows = [(word, speaker, take) for word in range(words) for speaker in range(speakers) for take in range(takes)]
    table = pd.DataFrame({"label": [f"word{word}" for word, _, _ in rows]})
    table["speaker"] = [f"speaker{speaker}" for _, speaker, _ in rows]
    table["id"] = [f"{word}/{speaker}_{take}.wav" for word, speaker, take in rows]
    table["unit"] = table["id"]
    for copy in range(copies):
        table.loc[len(table) - 1 - copy, "unit"] = table["unit"].iloc[copy]
    table["subset"] = ["test" if take == takes - 1 else "train" for _, _, take in rows]
    table.loc[table["id"].ne(table["unit"]), "subset"] = "train"
    return table


def drawn(table, task=None, pairs=4, **changes):
    task = {**SAMPLE, **(task or {}), **changes}
    return select(table, task), draw_pool(table, select(table, task), task, pairs)


@settings(max_examples=40, deadline=None)
@given(
    percent=st.integers(5, 15),
    seed=st.integers(0, 9),
    pairs=st.integers(4, 8),
    copies=st.integers(0, 3),
    b=st.booleans(),
)
def test_every_split_is_of_the_whole_pool_into_equal_strata(percent, seed, pairs, copies, b) -> None:
    table = corpus(copies=copies)
    request, pool = drawn(table, percent=percent, seed=seed, balanced=b, pairs=pairs)
    assert set(request.forget) <= set(pool.rows) and (table["subset"].iloc[pool.rows] == "train").all()
    assert len(request.forget) * 2 <= len(pool.rows) <= len(request.forget) * 2 + copies
    assert len({row.tobytes() for row in pool.half}) == len({(1 - row).tobytes() for row in pool.half}) == pairs
    labels = table["label"].iloc[pool.rows].to_numpy()
    for pair in range(pairs):
        first, second = (pool.forgetting(f"{pair}{half}") for half in "ab")
        assert np.array_equal(np.sort(np.concatenate([first.forget, second.forget])), pool.rows)
        assert np.array_equal(first.forget, second.withdrawn) and np.array_equal(first.withdrawn, second.forget)
        assert np.array_equal(pool.trained_without(f"{pair}a").forget, second.forget)
        counts = [(labels[pool.half[pair] == half][:, None] == np.unique(labels)).sum(axis=0) for half in (0, 1)]
        assert np.abs(counts[0] - counts[1]).max() <= 2 + 2 * copies
        units = table["unit"].iloc[pool.rows].to_numpy()
        assert not set(units[pool.half[pair] == 0]) & set(units[pool.half[pair] == 1])
    assert np.array_equal(pool.trained_without(POOL).forget, pool.rows)


def test_similar_recordings_are_of_the_same_word_and_speaker() -> None:
    table = corpus()
    request, pool = drawn(table, percent=10)
    others = np.setdiff1d(pool.rows, request.forget)
    cells = [table.iloc[rows].groupby(["label", "speaker"]).size() for rows in (request.forget, others)]
    assert cells[0].equals(cells[1]) and "all match in label and speaker" in pool.made_up


def test_halves_of_speakers_hold_whole_speakers() -> None:
    table = corpus(speakers=8)
    request, pool = drawn(table, {"by": "speaker", "number": 3, "values": None, "share": None, "fewest": None})
    speakers = table["speaker"].iloc[pool.rows].to_numpy()
    assert len(set(speakers)) == 6 and set(table["speaker"].iloc[request.forget]) <= set(speakers)
    assert len(np.unique(pool.unit)) == 6
    for half in pool.half:
        assert len(set(speakers[half == 0])) == 3 and not set(speakers[half == 0]) & set(speakers[half == 1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"percent": 60}, "at most half of each label"),
        ({"by": "speaker", "number": 1}, "2 values of speaker have fewer than 4 different splits"),
        ({"by": "speaker", "number": 5}, "has only 1 others"),
        ({"by": "speaker", "number": 3}, "no training recording of 'word0' is left"),
        ({"percent": 1}, "2 utterances have fewer than 4 different splits"),
    ],
)
def test_impossible_pools_are_refused(changes, words) -> None:
    task = {"values": None, "share": None, "fewest": None, **changes}
    with pytest.raises(UserError, match=words):
        drawn(corpus(), task)


def test_what_a_list_withdraws_is_withdrawn_from_all_models_of_pairs(tmp_path) -> None:
    table = corpus()
    named = [*table.index[table["subset"] == "train"][::12], *table.index[table["subset"] == "test"][:2]]
    (tmp_path / "ids.txt").write_text("\n".join(table["id"].iloc[named]) + "\n")
    request, pool = drawn(table, by="ids", ids=str(tmp_path / "ids.txt"))
    assert len(request.withdrawn) == 2
    for model in (pool.trained_without("0a"), pool.trained_without(POOL), pool.forgetting("0a")):
        assert set(request.withdrawn) <= set(model.withdrawn)
    assert not set(request.withdrawn) & set(pool.forgetting("0a").forget)


def test_other_pairs_do_not_change_a_split_and_another_seed_does() -> None:
    table = corpus()
    (_, few), (_, many), (_, other) = drawn(table), drawn(table, pairs=8), drawn(table, seed=1)
    assert np.array_equal(few.half, many.half[:4]) and np.array_equal(few.rows, many.rows)
    assert not np.array_equal(few.rows, other.rows)


def config(seed=0, kind="sample", **evaluation):
    return {
        "seed": seed,
        "oracle": "auto",
        "original": {"checkpoint": None},
        "task": {"kind": kind},
        "evaluation": {"oracles": 4, "pairs": 4, **evaluation},
    }


def test_runs_of_all_seeds_share_the_models_of_pairs_and_all_but_their_own_oracles() -> None:
    of_seeds = [set(trainings(config(seed)).values()) for seed in range(4)]
    parted = [{training for training in found if training.part} for found in of_seeds]
    assert len(parted[0]) == 12 and all(found == parted[0] for found in parted)
    assert len(set.union(*of_seeds)) == 12 + 4 + 4  # and four originals, four oracles
    assert not {training.seed for training in parted[0] if training.part == POOL} & set(range(4))
    assert not any(training.part for training in trainings(config(kind="class")).values())
    assert len(trainings(config(oracles=1, pairs=0))) == 2


def test_a_part_decides_what_a_model_is_trained_without() -> None:
    table = corpus()
    request, pool = drawn(table)
    assert request_of(Training("oracle", 0), request, pool) is request
    for part in parts(4):
        trained, forgot = (request_of(Training(stage, 0, part), request, pool) for stage in ("original", "unlearned"))
        assert np.array_equal(trained.forget, forgot.withdrawn)
        assert np.array_equal(np.sort(np.concatenate([trained.forget, forgot.forget])), pool.rows)
