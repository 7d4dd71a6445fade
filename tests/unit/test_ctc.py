"""Texts by CTC: the probability of a text is the sum over all ways to spell it, and padding changes nothing."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechforget.methods.common.losses import cross_entropy, divergence
from speechforget.recognition.ctc import BLANK, ended, frames_needed, frames_of, right, spoken, text_loss

FRAMES, TOKENS = 4, 3


def logits(seed: int = 0, utterances: int = 2) -> Tensor:
    return 3 * torch.randn(
        utterances, FRAMES, TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != BLANK)


def every_text(frames: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each text, by adding up all paths."""
    chances, found = frames.softmax(dim=1), defaultdict(float)
    for path in itertools.product(range(TOKENS), repeat=len(frames)):
        found[collapsed(path)] += math.prod(float(chances[frame, token]) for frame, token in enumerate(path))
    return found


def row(text: tuple[int, ...], width: int = FRAMES) -> Tensor:
    return torch.tensor([[*text, *[-1] * (width - len(text))]])


def test_the_loss_is_the_negative_logarithm_of_the_sum_over_all_paths() -> None:
    frames = logits()[:1]
    texts = every_text(frames[0])
    assert sum(texts.values()) == pytest.approx(1)
    for text, chance in texts.items():
        assert float(text_loss(frames, row(text))) == pytest.approx(-math.log(chance))


def test_a_text_that_needs_more_frames_than_there_are_has_no_probability() -> None:
    text = row((1, 1, 1))
    assert int(frames_needed(text)) == 5
    assert math.isinf(float(text_loss(logits()[:1], text)))
    assert int(frames_needed(row((1, 2, 1)))) == 3 and int(frames_needed(row(()))) == 0


def test_frames_beyond_the_end_change_neither_loss_nor_transcript() -> None:
    short = logits()[:, :3]
    longer = ended(torch.cat([short, 5 * torch.ones(2, 4, TOKENS, dtype=torch.float64)], dim=1), torch.tensor([3, 3]))
    texts = torch.cat([row((1, 2)), row((2,))])
    assert frames_of(longer).tolist() == [3, 3]
    assert torch.allclose(text_loss(longer, texts), text_loss(short, texts), rtol=1e-12)
    assert torch.equal(spoken(longer)[:, :3], spoken(short)) and bool((spoken(longer)[:, 3:] == -1).all())
    assert torch.allclose(cross_entropy(longer, texts), text_loss(short, texts) / 3)
    other = ended(torch.randn(2, 7, TOKENS, dtype=torch.float64), torch.tensor([3, 3]))
    assert torch.allclose(divergence(longer, other), divergence(short, other[:, :3]))


def test_no_gradient_comes_from_beyond_the_end() -> None:
    wide = torch.randn(1, 6, TOKENS, requires_grad=True)
    text_loss(ended(wide, torch.tensor([4])), row((1,))).sum().backward()
    assert wide.grad is not None
    assert bool(wide.grad[:, 4:].eq(0).all()) and bool(wide.grad[:, :4].ne(0).any())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, TOKENS - 1), min_size=5, max_size=5), min_size=1, max_size=4))
def test_greedy_transcripts_collapse_the_best_tokens(paths: list[list[int]]) -> None:
    found = spoken(torch.nn.functional.one_hot(torch.tensor(paths), TOKENS).double())
    for path, transcript in zip(paths, found.tolist(), strict=True):
        assert tuple(token for token in transcript if token != -1) == collapsed(tuple(path))
        assert transcript == sorted(transcript, key=lambda token: token == -1)


def test_an_answer_is_right_if_every_letter_is() -> None:
    frames = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 2], [0, 0, 0, 0]]), TOKENS).double()
    assert right(frames, torch.tensor([[1, 2, -1, -1, -1], [-1, -1, -1, -1, -1]])).tolist() == [True, True]
    assert right(frames, torch.tensor([[1, -1], [1, -1]])).tolist() == [False, False]
    assert right(torch.tensor([[0.0, 1.0]]), torch.tensor([1])).tolist() == [True]


def test_the_divergence_is_a_mean_over_frames() -> None:
    teacher, student = logits(1), logits(2)
    each = torch.stack([divergence(teacher[:, frame], student[:, frame]) for frame in range(FRAMES)])
    assert torch.allclose(divergence(teacher, student), each.mean(dim=0))
