"""Augmentation: off is off, the drawn amounts are the ones applied, and neither batches nor processes change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechforget.data.batches.augment import Augment
from speechforget.data.batches.sample_sources import Mapped
from speechforget.data.batches.waveforms import Waveforms
from speechforget.errors import UserError

RATE = 16000
SALT = (3, "training", 0)
EVERYTHING = {"shift": 0.1, "noise": 0.7, "snr": [0, 20], "masks": 2, "mask_frequency": 0.3, "mask_time": 0.2}


def batch(count: int, samples: int = RATE) -> tuple[Tensor, Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    waveform = torch.rand(count, samples, generator=generator) * 0.4 - 0.2
    lengths = torch.randint(samples // 2, samples + 1, (count,), generator=generator)
    waveform = waveform.masked_fill(torch.arange(samples) >= lengths[:, None], 0)
    return waveform, lengths, np.arange(count, dtype=np.int64) * 7 + 11


def test_off_changes_nothing() -> None:
    waveform, lengths, rows = batch(5)
    same, spans = Augment()(waveform.clone(), lengths, rows, SALT)
    assert torch.equal(same, waveform) and spans is None
    assert not Augment().delays(lengths.numpy(), rows, SALT).any()


@settings(deadline=None, max_examples=20)
@given(cut=st.integers(1, 7), reverse=st.booleans())
def test_batches_do_not_matter(cut: int, reverse: bool) -> None:
    augment = Augment(**EVERYTHING)
    waveform, lengths, rows = batch(8, 4000)
    whole = augment(waveform.clone(), lengths, rows, SALT)
    parts = [slice(0, cut), slice(cut, 8)]
    done = [
        augment(waveform[part].clone(), lengths[part], rows[part], SALT) for part in (parts[::-1] if reverse else parts)
    ]
    for number in range(2):
        assert torch.equal(torch.cat([one[number] for one in (done[::-1] if reverse else done)]), whole[number])


def test_salt_changes_every_draw() -> None:
    waveform, lengths, rows = batch(8)
    augment = Augment(**EVERYTHING)
    first, again, other = (
        (
            *augment(waveform.clone(), lengths, rows, (0, salt)),
            torch.from_numpy(augment.delays(lengths.numpy(), rows, (0, salt))),
        )
        for salt in (1, 1, 2)
    )
    assert all(torch.equal(left, right) for left, right in zip(first, again, strict=True))
    assert all(not torch.equal(left, right) for left, right in zip(first, other, strict=True))


def test_shift_moves_each_utterance_as_a_whole() -> None:
    waveform, lengths, rows = batch(40)
    pcm = (waveform * 32768).to(torch.int16)
    waveforms = Waveforms(Mapped(pcm.numpy().ravel(), np.arange(40) * RATE), lengths.numpy(), RATE)
    delays = Augment(shift=0.1).delays(lengths.numpy(), rows, SALT)
    shifted, ends = waveforms.gather(np.arange(40), delay=delays)
    for before, after, length, end, delay in zip(
        pcm / 32768, shifted, lengths.tolist(), ends.tolist(), delays.tolist(), strict=True
    ):
        expected = torch.zeros(RATE)
        source = before[max(0, -delay) : RATE - max(0, delay)]
        expected[max(0, delay) : max(0, delay) + len(source)] = source
        assert torch.equal(after, expected)
        assert end == min(RATE, length + delay)
    shares = delays / lengths.numpy()
    assert shares.min() < -0.05 and shares.max() > 0.05 and np.abs(shares).max() <= 0.1 + 1 / RATE


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("decibels", [0.0, 12.0])
def test_noise_has_the_ratio_asked_for(recorded: bool, decibels: float) -> None:
    waveform, lengths, rows = batch(20)
    recording = np.random.default_rng(0).integers(-9000, 9000, 30000).astype(np.int16) if recorded else None
    noisy, _ = Augment(noise=1.0, snr=[decibels, decibels]).with_noise(recording)(waveform.clone(), lengths, rows, SALT)
    added = noisy - waveform
    ratio = 10 * torch.log10(waveform.square().sum(1) / added.square().sum(1))
    assert torch.allclose(ratio, torch.full((20,), decibels), atol=0.01)
    assert not added[torch.arange(RATE) >= lengths[:, None]].any()


def test_noise_comes_to_its_share_at_ratios_within_the_range() -> None:
    waveform, lengths, rows = batch(400, 800)
    noisy, _ = Augment(noise=0.25, snr=[5, 15])(waveform.clone(), lengths, rows, SALT)
    added = (noisy - waveform).square().sum(1)
    chosen = added > 0
    assert 0.17 < chosen.float().mean() < 0.33
    ratio = 10 * torch.log10(waveform.square().sum(1) / added)[chosen]
    assert 4.9 < ratio.min() < 6.5 and 13.5 < ratio.max() < 15.1


def test_silent_recordings_of_noise_add_nothing() -> None:
    waveform, lengths, rows = batch(4)
    noisy, _ = Augment(noise=1.0).with_noise(np.zeros(100, np.int16))(waveform.clone(), lengths, rows, SALT)
    assert torch.equal(noisy, waveform)


def test_spans_lie_inside_and_are_no_wider_than_asked() -> None:
    waveform, lengths, rows = batch(200, 800)
    _, spans = Augment(masks=3, mask_frequency=0.3, mask_time=0.1)(waveform, lengths, rows, SALT)
    assert spans is not None and spans.shape == (200, 2, 3, 2)
    width = spans[..., 1] - spans[..., 0]
    assert spans.min() >= 0 and spans.max() <= 1 and width.min() >= 0
    assert 0.28 < width[:, 0].max() <= 0.3 and 0.09 < width[:, 1].max() <= 0.1


@pytest.mark.parametrize("numbers", [{"shift": 1.5}, {"noise": -0.1}, {"snr": [20, 5]}, {"mask_time": 2}])
def test_impossible_numbers_are_explained(numbers: dict) -> None:
    with pytest.raises(UserError, match=r"train\.augment\." + next(iter(numbers))):
        Augment(**numbers)
