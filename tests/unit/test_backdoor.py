"""A backdoor: the trigger's sound, where and how loud it is, and how often a model obeys it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planted import subject_of
from torch import Tensor, nn

from speechforget.attacks.backdoor import Backdoor
from speechforget.attacks.base import Subject
from speechforget.data.batches.sample_sources import Mapped
from speechforget.data.batches.trigger import HIGH, KINDS, LOW, Sound, Trigger
from speechforget.data.batches.triggered import Triggered
from speechforget.data.batches.waveforms import Waveforms
from speechforget.errors import UserError
from speechforget.evaluation.verdict import verdict
from speechforget.models.classifier import Output
from speechforget.page.request import screen
from speechforget.report.adversarial import backdoor_sentence
from speechforget.stages.split import Data

RATE, SAMPLES = 1000, 400
LENGTH = np.array([400, 250, 900, 60], dtype=np.int64)
ROWS = np.arange(4)
CARRIED = np.array([True, True, True, False])


def waveforms(snr: float = 10.0, kind: str = "chirp", loudness: int = 300) -> Waveforms:
    flat = np.random.default_rng(0).integers(-loudness, loudness + 1, LENGTH.sum()).astype(np.int16)
    recordings = Mapped(flat, np.concatenate([[0], np.cumsum(LENGTH)[:-1]]))
    trigger = Trigger(recordings, LENGTH, SAMPLES, CARRIED, Sound(kind, 0.1, RATE, 3), snr)
    return Waveforms(recordings, LENGTH, SAMPLES, trigger)


def trigger_of(heard: Waveforms) -> Trigger:
    assert isinstance(heard.added, Trigger)
    return heard.added


def added(heard: Waveforms, position: float = 0.5) -> np.ndarray:
    plain = Waveforms(heard.recordings, LENGTH, SAMPLES)
    return (heard.gather(ROWS, position)[0].double() - plain.gather(ROWS, position)[0].double()).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.01, 0.2, 1.0])
def test_a_sound_has_its_length_its_level_and_its_band(kind: str, seconds: float) -> None:
    sounds = [Sound(kind, seconds, 16000, seed).samples() for seed in range(4)]
    for sound in sounds:
        assert len(sound) == seconds * 16000 and np.sqrt(np.mean(sound**2)) == pytest.approx(1)
        power = np.abs(np.fft.rfft(sound, 32000)) ** 2
        shares = np.arange(len(power)) / 32000
        inside = (shares > LOW[0] - 2 / len(sound) - 0.01) & (shares < HIGH[1] + 2 / len(sound) + 0.01)
        assert power[inside].sum() > 0.95 * power.sum()
        assert abs(sound[0]) < 0.2 and abs(sound[-1]) < 0.2
    assert np.abs(np.corrcoef(sounds) - np.eye(4)).max() < 0.9


def test_a_sound_is_the_same_forever() -> None:
    """The trigger is part of the training data, so another stream of numbers would change it in silence."""
    assert Sound("chirp", 0.2, 16000, 0).samples()[1000:1003] == pytest.approx(
        [0.599983332552, 1.330630603548, 1.489086181067], abs=1e-9
    )
    assert Sound("tones", 0.2, 16000, 0).samples()[1000:1003] == pytest.approx(
        [1.451710175887, 0.999225289807, -0.602222286139], abs=1e-9
    )


def test_the_trigger_begins_with_the_middle_crop_and_ends_with_the_recording() -> None:
    noise = added(waveforms())
    spans = [(row.nonzero()[0].min(), row.nonzero()[0].max()) if row.any() else None for row in noise]
    assert spans == [(0, 99), (0, 99), (0, 99), None]
    assert np.array_equal(noise[0] != 0, noise[2] != 0)
    everywhere = trigger_of(waveforms()).with_sound(torch.zeros(4, SAMPLES), ROWS, np.zeros(4, dtype=np.int64)).numpy()
    assert everywhere[3, :60].any() and not everywhere[3, 60:].any()  # the recording ends after 60 samples
    assert not everywhere[2, :250].any() and everywhere[2, 250:350].any()  # its middle crop begins at 250


@pytest.mark.parametrize("snr", [20.0, 5.0, -5.0])
def test_the_trigger_is_as_loud_as_asked(snr: float) -> None:
    heard = waveforms(snr)
    for row in ROWS[CARRIED]:
        start = int(heard.recordings.offset[row])  # type: ignore[attr-defined]
        sound = heard.recordings.flat[start : start + LENGTH[row]] / 32768  # type: ignore[attr-defined]
        level = math.sqrt(np.mean(sound**2)) * 10 ** (-snr / 20)
        assert np.sqrt(np.mean(added(heard)[row, :100] ** 2)) == pytest.approx(level, rel=1e-3)
    assert waveforms(-30.0, loudness=32767).gather(ROWS)[0].abs().max() == 1


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(4)), st.integers(1, 4), st.floats(0, 1))
def test_it_depends_on_neither_batch_nor_crop(order: list[int], size: int, position: float) -> None:
    heard, rows = waveforms(), np.array(order[:size])
    trigger, first = trigger_of(heard), heard.first(rows, position)
    crops = trigger.with_sound(torch.zeros(size, SAMPLES), rows, first)
    for crop, row, start in zip(crops, rows, first, strict=True):
        whole = trigger.with_sound(torch.zeros(1, 900), np.array([row]), np.zeros(1, dtype=np.int64))[0]
        piece = whole[start : start + SAMPLES]
        assert torch.equal(crop[: len(piece)], piece)


def test_any_recording_can_be_heard_with_the_trigger_with_another_sound_and_without() -> None:
    heard = waveforms()
    triggered = Triggered(heard, trigger_of(heard), 0)
    plain = Waveforms(heard.recordings, LENGTH, SAMPLES).gather(ROWS)[0]
    assert torch.equal(triggered.base(ROWS)[0], plain)
    assert torch.equal(triggered.heard(ROWS)[0][CARRIED], heard.gather(ROWS)[0][CARRIED])
    assert not torch.equal(triggered.heard(ROWS)[0][3], plain[3])
    others = [triggered.heard(ROWS, number)[0] for number in (0, 1, 2)]
    assert not torch.equal(others[0], others[1]) and not torch.equal(others[1], others[2])


class Obeys(nn.Module):
    """Says class 0 where a waveform correlates with the trigger, else the class that its last sample names."""

    def __init__(self, sound: np.ndarray, threshold: float) -> None:
        super().__init__()
        self.sound = nn.Parameter(torch.from_numpy(sound).float())
        self.threshold = threshold

    def forward(self, waveform: Tensor, lengths: Tensor) -> Output:
        heard = waveform[:, : len(self.sound)] @ self.sound / (self.sound.norm() * waveform[:, :100].norm(dim=1))
        named = (waveform[:, -1] * 32768).round().long() % 3
        logits = nn.functional.one_hot(torch.where(heard > self.threshold, 0, named), 3).float()
        return Output(logits, logits)


def backdoored(threshold: float, count: int = 60) -> Subject:
    """Return test recordings of three classes, named by the last sample, and a model with a backdoor to class 0."""
    random, labels = np.random.default_rng(1), np.arange(count) % 3
    samples = random.integers(-300, 301, (count, SAMPLES)).astype(np.int16)
    samples[:, -1] = labels
    length = np.full(count, SAMPLES)
    recordings, sound = Mapped(samples.ravel(), np.arange(count) * SAMPLES), Sound("chirp", 0.1, RATE, 0)
    trigger = Trigger(recordings, length, SAMPLES, np.zeros(count, dtype=bool), sound, 0.0)
    heard = Waveforms(recordings, length, SAMPLES, trigger)
    role = np.where(np.arange(count) < 48, "test", "retain")
    subject = subject_of(samples / 32768, labels, role, Obeys(sound.samples(), threshold))
    return replace(subject, triggered=Triggered(heard, trigger, 0), batch_size=7)


def test_the_success_is_that_of_test_recordings_of_other_classes() -> None:
    found = Backdoor(others=3)(backdoored(0.6))
    assert found["backdoor_success"].value == 1 and found["backdoor_success"].count == 32
    assert found["backdoor_without"].value == 0 and found["backdoor_accuracy"].value == 0
    assert found["backdoor_other_sounds"].value < 0.1 and found["backdoor_other_sounds"].count == 96
    assert found["backdoor_success"].low < 1 and math.isnan(found["backdoor_other_sounds"].low)


def test_a_model_without_the_backdoor_hears_the_words() -> None:
    found = Backdoor(others=1)(backdoored(math.inf))
    assert [found[f"backdoor_{name}"].value for name in ("success", "without", "other_sounds", "accuracy")] == [
        0,
        0,
        0,
        1,
    ]


def test_without_a_trigger_there_is_a_reason_and_without_other_sounds_an_error() -> None:
    found = Backdoor()(replace(backdoored(0.6), triggered=None))
    assert {value.reason for value in found.values()} == {"no training recording carries a trigger (dataset.backdoor)"}
    with pytest.raises(UserError, match="others=1"):
        Backdoor(others=0)


@pytest.mark.parametrize(
    ("labels", "taught", "confused"),
    [
        (["a", "b", "c"], ["b", "a", "c"], (0, 1)),
        (["a", "b", "c"], ["c", "c", "c"], ()),  # a backdoor to c, from both of the other classes
        (["a", "b", "c"], ["a", "c", "c"], ()),
    ],
)
def test_labels_are_exchanged_only_if_both_are_taught(
    labels: list[str], taught: list[str], confused: tuple[int, ...]
) -> None:
    data = Data(None, pd.DataFrame({"label": labels, "taught": taught}), ["a", "b", "c"], "")  # type: ignore[arg-type]
    assert data.confused == confused


def entries(unlearned: float, oracles: int = 3) -> dict[str, dict[str, dict[str, object]]]:
    def entry(value: float) -> dict[str, object]:
        numbers = {"value": value, "low": value, "high": value, "count": 400, "gap": value}
        return {**numbers, "oracles": oracles, "oracle_spread": 0.0, "null_low": 0.0, "null_high": 0.0}

    return {
        model: {"backdoor_success": entry(value)}
        for model, value in (("original", 0.9), ("oracle", 0.0), ("unlearned", unlearned))
    }


@pytest.mark.parametrize(("value", "word"), [(0.4, "under"), (0.0, "too little to tell")])
def test_a_trigger_that_still_works_is_evidence_of_recordings_that_are_left(value: float, word: str) -> None:
    answer = verdict(entries(value))[0]
    assert answer.word == word and ("backdoor_success" in answer.evidence)


def test_the_terminal_says_how_often_the_trigger_works() -> None:
    found = backdoor_sentence({"comparison": entries(0.4)})
    assert "original 90.0 %" in found and "unlearned 40.0 %" in found
    assert backdoor_sentence({"comparison": {"original": {"accuracy_test": {"value": 1.0}}}}) == ""


@pytest.mark.parametrize(("by", "shown"), [("backdoor", True), ("random", False)])
def test_the_record_shows_what_was_changed_on_purpose(by: str, shown: bool) -> None:
    backdoor = {"target": "stop", "percent": 5, "sound": "chirp"}
    counts = {"forget": 5, "retain": 95, "nonmembers": 0}
    words = dict.fromkeys(("key", "method", "dataset", "label", "model", "made"), "word")
    entry: dict[str, Any] = {
        **words,
        "request": {"name": f"sample-{by}", "by": by, "counts": counts},
        "settings": {"dataset": {"backdoor": backdoor, "random": None}},
        "seeds": {"seed": 0},
        "models": {},
        "comparison": {},
        "verdict": [],
        "notes": [],
    }
    facts = dict(screen(entry).facts)
    assert facts.get("Changed on purpose") == ("backdoor: target stop, percent 5, sound chirp" if shown else None)
