"""Convolutions as products of matrices."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from speechforget.methods.common.conv_as_matmul import as_products


@settings(max_examples=40)
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.booleans(),
)
def test_a_convolution_is_a_product(
    axes: int, inputs: int, sizes: tuple[int, int], padding: int, dilation: int, bias: bool
) -> None:
    torch.manual_seed(inputs)
    kind = (nn.Conv1d, nn.Conv2d)[axes - 1]
    model = nn.Sequential(kind(inputs, 3, *sizes, padding, dilation, bias=bias)).double()
    x = torch.randn(2, inputs, *[7 + place for place in range(axes)], dtype=torch.float64)
    changed = as_products(copy.deepcopy(model))
    assert "forward" in vars(changed[0])
    torch.testing.assert_close(changed(x), model(x))


def test_other_convolutions_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Conv1d(4, 4, 3, groups=4),
        nn.Conv1d(4, 4, 3, padding_mode="circular", padding=1),
        nn.Conv1d(4, 4, 3, padding="same"),
    )
    assert not any("forward" in vars(child) for child in as_products(model))
