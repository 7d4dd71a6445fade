"""The test for planted keys: exact without influence, positive with it, negative where a model was pushed away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest
from support.tiny import CLASSES, Tiny
from torch import Tensor, nn

from speechforget.attacks.planted_key import (
    PlantedKey,
    gradient,
    gradient_scores,
    margins,
    normal_score,
    rank_scores,
    rank_threshold,
    values_of,
)
from speechforget.errors import UserError
from speechforget.models.classifier import Output
from speechforget.pipeline import Pipeline
from speechforget.stages.attack import make_subject
from speechforget.store import Store

KEYS, UTTERANCES, FRESH, SAMPLES = 2000, 12, 19, 24


@pytest.fixture(scope="module")
def utterances() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sound = 0.1 * torch.randn(UTTERANCES, SAMPLES, generator=generator)
    return sound, torch.full((UTTERANCES,), SAMPLES), torch.arange(UTTERANCES) % CLASSES


def rejected(z: np.ndarray) -> float:
    """The share of two-sided tests at 5 % that reject."""
    return float((np.abs(z) > 1.959964).mean())


def test_the_gradient_score_of_random_keys_is_standard_normal(utterances) -> None:
    sound, lengths, labels = utterances
    slope = gradient(Tiny(0).eval(), sound, lengths, labels)
    keys = np.random.default_rng(0).standard_normal((KEYS, UTTERANCES, SAMPLES))
    scores = np.stack([gradient_scores(slope, each) for each in keys])
    assert 0.035 < rejected(scores.mean(1) * np.sqrt(UTTERANCES)) < 0.065
    assert kstest(scores[:, 0], "norm").pvalue > 0.01 and kstest(scores.ravel(), "norm").pvalue > 0.01


def test_the_rank_score_of_random_keys_has_the_promised_level(utterances) -> None:
    sound, lengths, labels = utterances
    model, draw = Tiny(0).eval(), torch.Generator().manual_seed(1)
    z, alarms, first = [], 0, float(normal_score(np.array([FRESH - 0.5]), FRESH)[0])
    for _ in range(KEYS // 100):
        noise = 0.1 * torch.randn(100, FRESH + 1, UTTERANCES, SAMPLES, generator=draw)
        heard = (sound + noise).reshape(-1, SAMPLES)
        repeats = len(heard) // UTTERANCES
        found = margins(model, heard, lengths.repeat(repeats), labels.repeat(repeats))
        for each in found.reshape(100, FRESH + 1, UTTERANCES):
            scores = rank_scores(each[0], each[1:].T)
            z.append(scores.mean() * np.sqrt(UTTERANCES))
            alarms += int((scores > first).sum())
    assert 0.035 < rejected(np.array(z)) < 0.065
    assert binomtest(alarms, KEYS * UTTERANCES, 1 / (FRESH + 1)).pvalue > 0.001


class Remembers(nn.Module):
    """Two classes; the margin of class 1 is the utterance's product with `direction`."""

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        margin = waveform @ self.direction
        return Output(torch.stack([-margin, margin], dim=1) / 2, waveform)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_remembered_key_is_found_and_the_sign_says_in_which_direction(sign: int) -> None:
    draw = torch.Generator().manual_seed(0)
    sound, keys = (torch.randn(40, 200, generator=draw) for _ in range(2))
    model = Remembers(sign * keys.mean(0)).eval()
    labels, lengths = torch.ones(40, dtype=torch.int64), torch.full((40,), 200)
    by_gradient = gradient_scores(gradient(model, sound, lengths, labels), keys.numpy())
    fresh = [margins(model, sound + torch.randn(40, 200, generator=draw), lengths, labels) for _ in range(99)]
    by_rank = rank_scores(margins(model, sound + keys, lengths, labels), np.stack(fresh, axis=1))
    for scores in (by_gradient, by_rank):
        assert sign * values_of("key", scores, 2.3)["key_z"].value > 5


def test_closed_forms() -> None:
    slopes, keys = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 1.0], [-2.0, 5.0]])
    assert gradient_scores(slopes, keys).tolist() == [-1.4, 0.0, 2.0]
    found = values_of("key", np.array([1.0, 2.0, 3.0, 2.0]), 2.5)
    assert found["key"][:2] == pytest.approx((2, 2 - 1.959964 / 2)) and found["key_z"].value == 4
    assert found["key_z"][1:4] == pytest.approx((4 - 1.959964, 4 + 1.959964, 4))
    assert found["key_tpr"].value == 0.25


@pytest.mark.parametrize("fresh", [99, 100, 150, 199, 1000])
def test_at_most_one_per_cent_of_ranks_are_above_the_threshold(fresh: int) -> None:
    above = (normal_score(np.arange(fresh + 1), fresh) > rank_threshold(fresh)).mean()
    assert 0.01 - 1 / (fresh + 1) < above <= 0.01


@settings(deadline=None)
@given(st.integers(1, 300))
def test_normal_scores_of_all_ranks_have_mean_0_and_variance_1(fresh: int) -> None:
    scores = normal_score(np.arange(fresh + 1), fresh)
    assert scores.mean() == pytest.approx(0, abs=1e-9) and scores.var() == pytest.approx(1)
    assert (np.diff(scores) > 0).all()


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=3, max_size=9), st.integers(-5, 5))
def test_rank_scores_depend_on_the_order_alone_and_share_ties(fresh: list[int], own: int) -> None:
    one = rank_scores(np.array([own * 1.0]), np.array([fresh]) * 1.0)
    assert np.allclose(one, rank_scores(np.array([own**3 + 7.0]), np.array([fresh]) ** 3 + 7.0))
    assert np.allclose(one, -rank_scores(np.array([-own * 1.0]), -np.array([fresh]) * 1.0))
    if set(fresh) == {own}:
        assert one == pytest.approx(0)


def test_too_few_fresh_keys_are_refused() -> None:
    with pytest.raises(UserError, match="99 keys or more"):
        PlantedKey(fresh=50)


def subject_of(configure: Callable[..., dict[str, Any]], folder: Any, *overrides: str) -> Any:
    pipeline = Pipeline(configure("task=sample", *overrides, f"output={folder}"), Store(folder))
    return make_subject(Tiny(0), pipeline.config, pipeline.data, pipeline.request)


@pytest.mark.slow
def test_an_untrained_model_knows_no_key(configure: Callable[..., dict[str, Any]], tmp_path) -> None:
    keyed = ("task.by=planted", "dataset.planted.kind=noise", "dataset.planted.percent=30")
    subject = subject_of(configure, tmp_path, *keyed)
    parameters = [parameter.clone() for parameter in subject.classifier.parameters()]
    found = PlantedKey()(subject)
    assert set(found) == {f"key_{kind}{end}" for kind in ("rank", "gradient") for end in ("", "_z", "_tpr")}
    assert {value.count for value in found.values()} == {len(subject.rows["forget"])}
    assert abs(found["key_rank_z"].value) < 3 and abs(found["key_gradient_z"].value) < 3
    assert PlantedKey()(subject) == found
    for parameter, before in zip(subject.classifier.parameters(), parameters, strict=True):
        assert torch.equal(parameter, before) and parameter.grad is None


def test_a_request_without_keys_has_a_reason_and_no_number(configure: Callable[..., dict[str, Any]], tmp_path) -> None:
    found = PlantedKey()(subject_of(configure, tmp_path))
    assert all(np.isnan(value.value) and "carries a key" in value.reason for value in found.values())
