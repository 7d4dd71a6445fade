"""Dropout by utterance: the same masks in whatever batch, and otherwise what torch's dropout is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from speechforget import seeding
from speechforget.batch import Batch, Pair
from speechforget.distributed.dropout import bits, by_utterance, drawn_for

ROWS = torch.tensor([3, 0, 11, 7, 5])


def batch(rows: torch.Tensor, inputs: torch.Tensor) -> Batch:
    return Batch(
        (inputs[rows],), torch.zeros(len(rows), dtype=torch.int64), rows, torch.zeros(len(rows), dtype=torch.bool)
    )


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.integers(1, 7), st.integers(0, 2**63 - 1))
def test_draws_are_those_of_numpy(rows: list[int], count: int, seed: int) -> None:
    salt = (seed, "any")
    expected = seeding.uniform(np.array(rows), count, *salt)
    assert np.array_equal(bits(torch.tensor(rows), count, seeding.seed_from(*salt)).numpy() * 2.0**-53, expected)


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.Dropout, (6,)), (nn.Dropout, (4, 5)), (nn.Dropout1d, (8, 5)), (nn.Dropout2d, (8, 3, 4))]
)
def test_a_mask_belongs_to_an_utterance(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    inputs = torch.rand(12, *shape) + 1
    model = by_utterance(nn.Sequential(kind(0.4), nn.Identity())).train()

    def heard(rows: torch.Tensor, *salt: int | str) -> torch.Tensor:
        spoken = batch(rows, inputs)
        with drawn_for(spoken, *salt):
            return model(*spoken.inputs)

    whole = heard(ROWS, 0, "train", 1)
    parts = torch.cat([heard(ROWS[:2], 0, "train", 1), heard(ROWS[2:], 0, "train", 1)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, heard(ROWS, 0, "train", 2)) and not torch.equal(whole, heard(ROWS, 1, "train", 1))
    kept = whole != 0
    assert torch.allclose(whole[kept], inputs[ROWS][kept] / 0.6)
    if kind is not nn.Dropout:  # whole channels, or none of them
        channels = kept.flatten(2)
        assert torch.equal(channels.all(2), channels.any(2))
    assert torch.equal(model.eval()(inputs), inputs)


def test_two_dropouts_draw_apart_and_about_as_many_as_asked() -> None:
    inputs = torch.ones(400, 100)
    model = by_utterance(nn.ModuleList([nn.Dropout(0.3), nn.Dropout(0.3)])).train()
    rows = torch.arange(400)
    spoken = batch(rows, inputs)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.parts[0](x), self.parts[1](x)

    with drawn_for(spoken, 0):
        first, second = by_utterance(Both().train())(*spoken.inputs)
    for drawn in (first, second):
        assert 0.29 < float((drawn == 0).double().mean()) < 0.31
    assert 0.08 < float(((first == 0) & (second == 0)).double().mean()) < 0.10  # independent


def test_each_half_of_a_pair_has_its_own_masks_and_elsewhere_torch_draws() -> None:
    inputs = torch.ones(12, 50)
    model = by_utterance(nn.Sequential(nn.Dropout(0.5))).train()
    pair = Pair(batch(ROWS[:3], inputs), batch(ROWS[3:], inputs))
    with drawn_for(pair, 0):
        forget, retain = (model(*half.inputs) for half in pair)
    with drawn_for(pair.retain, 0):
        assert torch.equal(model(*pair.retain.inputs), retain)
    assert not torch.equal(forget[:2], retain)
    torch.manual_seed(0)
    plain = model(inputs)
    torch.manual_seed(0)
    assert torch.equal(plain, nn.functional.dropout(inputs, 0.5))
