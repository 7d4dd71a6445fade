"""Shards and slices: dealt evenly, moved by nothing but their seed, and as many passes as the recipe has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechforget.data.shards import NOWHERE, assign, slice_epochs
from speechforget.errors import UserError

OPTIONS = {"shards": 3, "slices": 2, "by": "utterance", "seed": 0}


def table(units: list[str], speakers: list[str] | None = None, subset: str = "train") -> pd.DataFrame:
    columns = {"id": [f"id{number}" for number in range(len(units))], "unit": units, "subset": subset}
    return pd.DataFrame(columns | ({} if speakers is None else {"speaker": speakers}))


@given(st.integers(6, 60), st.integers(1, 3), st.integers(1, 2), st.integers(0, 5))
def test_cells_are_even_and_every_training_row_is_in_one(count: int, shards: int, slices: int, seed: int) -> None:
    found = assign(
        table([f"u{i}" for i in range(count)]), {**OPTIONS, "shards": shards, "slices": slices, "seed": seed}
    )
    cells = pd.Series(map(tuple, found.tolist())).value_counts()
    assert len(cells) == shards * slices and cells.max() - cells.min() <= 1
    assert found[:, 0].max() == shards - 1 and found[:, 1].max() == slices - 1


@given(st.permutations([f"u{number}" for number in range(20)]))
def test_the_order_of_the_table_moves_nobody(units: list[str]) -> None:
    usual = dict(zip(sorted(units), assign(table(sorted(units)), OPTIONS).tolist(), strict=True))
    assert dict(zip(units, assign(table(units), OPTIONS).tolist(), strict=True)) == usual


def test_other_subsets_are_nowhere_and_move_nobody() -> None:
    train, test = table([f"u{number}" for number in range(20)]), table(["a", "b"], subset="test")
    both = assign(pd.concat([test, train], ignore_index=True), OPTIONS)
    assert (both[:2] == NOWHERE).all() and np.array_equal(both[2:], assign(train, OPTIONS))


def test_copies_and_speakers_stay_together_and_seeds_differ() -> None:
    units = [f"u{number // 2}" for number in range(40)]
    found = assign(table(units), OPTIONS)
    assert np.array_equal(found[::2], found[1::2])
    speakers = [f"s{number % 10}" for number in range(40)]
    by_speaker = assign(table([f"u{number}" for number in range(40)], speakers), {**OPTIONS, "by": "speaker"})
    assert np.array_equal(by_speaker[:10], by_speaker[10:20])
    assert not np.array_equal(found, assign(table(units), {**OPTIONS, "seed": 1}))


def test_what_cannot_be_dealt_is_one_sentence() -> None:
    with pytest.raises(UserError, match="at least 6 different units to train on, and there are 5"):
        assign(table([f"u{number}" for number in range(5)]), OPTIONS)
    with pytest.raises(UserError, match=r"does not say who speaks: set train\.sisa\.by=utterance"):
        assign(table([f"u{number}" for number in range(9)]), {**OPTIONS, "by": "speaker"})


def test_the_epochs_of_slices_are_those_of_the_paper() -> None:
    assert slice_epochs(20, 1) == [20] and slice_epochs(20, 2) == [13, 13] and slice_epochs(20, 3) == [10, 10, 10]
    assert slice_epochs(6, 4) == [2, 2, 3, 2]


@given(st.integers(1, 100), st.integers(1, 20))
def test_slices_cost_about_what_the_recipe_costs(epochs: int, slices: int) -> None:
    found = slice_epochs(epochs, slices)
    passes = sum(count * (number + 1) / slices for number, count in enumerate(found))
    assert len(found) == slices and sum(found) == 2 * epochs * slices // (slices + 1)
    assert abs(passes - epochs) <= 1
