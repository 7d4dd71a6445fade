"""Recognisers: batches, channels, windows of longer recordings, and what they refuse to hear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.inference import Recogniser, load
from speechforget.models.classifier import Output

RATE, SECONDS = 1000, 1.0
LABELS = ["low", "high"]
WAVE = np.sin(np.arange(RATE)).astype(np.float32) / 2


class Mean(nn.Module):
    """Logits are (0, the mean of what is heard), so a closed form says which samples were heard."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        means = self.weight * waveform.sum(1) / lengths
        return Output(torch.stack([torch.zeros_like(means), means], dim=1), waveform)


def recogniser(windows: str = "scored", scored: int = 1) -> Recogniser:
    return Recogniser(Mean().eval(), LABELS, RATE, SECONDS, windows, scored)


def heard(answer: object) -> float:
    """The mean of the samples that an answer was given for."""
    share = answer.probabilities["high"]  # type: ignore[attr-defined]
    return float(np.log(share / (1 - share)))


def ramp(samples: int) -> np.ndarray:
    return np.linspace(-0.5, 1.0, samples, dtype=np.float32)


@pytest.mark.parametrize("samples", [1000, 1500, 2500, 3001])
def test_windows_of_a_longer_recording(samples: int) -> None:
    wave = ramp(samples)
    start = (samples - RATE) // 2
    middle = float(wave[start : start + RATE].mean())
    assert heard(recogniser("middle").classify(wave)) == pytest.approx(middle, abs=1e-5)
    assert heard(recogniser().classify(wave)) == pytest.approx(middle, abs=1e-5)
    count = -(-samples // RATE)
    starts = [int((samples - RATE) * position) for position in np.linspace(0, 1, count)]
    expected = float(np.mean([wave[start : start + RATE].mean() for start in starts]))
    assert heard(recogniser("average").classify(wave)) == pytest.approx(expected, abs=1e-5)


def test_scored_windows_are_those_of_scoring() -> None:
    wave = np.concatenate([np.full(1000, 0.1), np.full(1000, 0.5), np.full(1000, 0.9)]).astype(np.float32)
    wave[::2] += 0.01  # no window is silent
    assert heard(recogniser(scored=2).classify(wave)) == pytest.approx(0.505, abs=1e-4)
    assert heard(recogniser(scored=3).classify(wave)) == pytest.approx(0.505, abs=1e-4)
    assert heard(recogniser(scored=1).classify(wave)) == pytest.approx(0.505, abs=1e-4)
    assert heard(recogniser(scored=2).classify(wave[500:])) == pytest.approx((0.3 + 0.9) / 2 + 0.005, abs=1e-4)
    assert heard(recogniser(scored=3).classify(wave[:600])) == pytest.approx(0.105, abs=1e-4)


@settings(max_examples=15)
@given(st.lists(st.integers(20, 4000), min_size=1, max_size=12), st.sampled_from(["middle", "average"]))
def test_a_batch_answers_as_each_recording_alone(lengths: list[int], windows: str) -> None:
    one, waves = recogniser(windows), [ramp(length) for length in lengths]
    together = one.classify(waves)
    assert len(together) == len(waves)
    for answer, wave in zip(together, waves, strict=True):
        assert heard(answer) == pytest.approx(heard(one.classify(wave)), abs=1e-5)


def test_channels_are_averaged_in_either_order_and_in_files(tmp_path: Path) -> None:
    stereo = np.stack([WAVE, 0.5 * WAVE + 0.2])
    mono = heard(recogniser().classify(stereo.mean(axis=0)))
    assert heard(recogniser().classify(stereo)) == pytest.approx(mono, abs=1e-6)
    assert heard(recogniser().classify(torch.from_numpy(stereo.T.copy()))) == pytest.approx(mono, abs=1e-6)
    soundfile.write(tmp_path / "stereo.wav", stereo.T, RATE, subtype="FLOAT")
    assert heard(recogniser().classify(tmp_path / "stereo.wav")) == pytest.approx(mono, abs=1e-6)


def test_a_list_of_numbers_is_one_waveform_and_an_empty_list_has_no_answers() -> None:
    assert heard(recogniser().classify(WAVE.tolist())) == pytest.approx(heard(recogniser().classify(WAVE)))
    assert recogniser().classify([]) == []


def test_a_recording_at_another_rate_is_resampled() -> None:
    twice = np.repeat(ramp(1000), 2)
    assert heard(recogniser().classify(twice, 2 * RATE)) == pytest.approx(float(ramp(1000).mean()), abs=1e-2)


def test_a_silent_middle_is_refused_and_the_average_hears_the_rest() -> None:
    wave = np.concatenate([WAVE, np.zeros(3000, dtype=np.float32), WAVE])
    with pytest.raises(UserError, match=r"silent in the 1 s that the classifier hears .*windows='average'"):
        recogniser("middle").classify(wave)
    assert recogniser("average").classify(wave).label in LABELS


REFUSED = {
    "dither": (np.tile([0, 1 / 32768], 500), "silent"),
    "two recordings at once": (np.stack([WAVE[:9]] * 9), "list of recordings"),
    "half clipped": (np.where(np.arange(RATE) % 3, np.sign(WAVE), WAVE), "clipped"),
    "the third": ([WAVE, WAVE, np.full(RATE, np.inf)], "Waveform 3 of the list cannot be used"),
    "nothing": (np.zeros((0, 5)), "shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_heard_is_refused(name: str) -> None:
    recording, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        recogniser().classify(recording)


def test_unknown_windows_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'average'"):
        recogniser("averaged")
    with pytest.raises(UserError, match="neither a model nor a result"):
        load(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match="holds no readable model"):
        load(tmp_path)
