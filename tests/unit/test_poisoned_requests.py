"""Poisoned requests: gradients in closed form, the rank among random requests, the choice, the price, the warning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planted import subject_of
from support.score_tables import make_tables
from torch import nn

from speechforget.attacks.alignment import ENDS, NAMES, Alignment
from speechforget.attacks.base import Subject
from speechforget.attacks.common.gradients import mean_gradient, slopes
from speechforget.attacks.common.poison import largest, poison
from speechforget.cli.poison import main
from speechforget.errors import UserError
from speechforget.evaluation.compare import compare
from speechforget.evaluation.damage import damage, harm_sentence
from speechforget.models.classifier import Output
from speechforget.report.adversarial import damage_sentence, warning_sentence
from speechforget.stages import warned

WIDTH, COUNT, ASKED = 6, 120, 12


class Linear(nn.Module):
    """Two classes of linear scores: the gradient of a loss is known in closed form."""

    frontend = None

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 2, bias=False)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> Output:
        logits = self.head(waveform)
        return Output(logits, logits)


def linear(poisoned: bool, seed: int = 0) -> tuple[Subject, np.ndarray]:
    """Return recordings of two classes, and their features: at weights 0 the gradient of a loss is (1/2 - [c = y]) x.

    Poisoned: the recordings of the request are large, and point where those of validation point.
    """
    random = np.random.default_rng(seed)
    features = random.normal(size=(COUNT, WIDTH))
    role = np.where(np.arange(COUNT) < ASKED, "forget", np.where(np.arange(COUNT) < 90, "retain", "validation"))
    labels = np.arange(COUNT) % 2
    features[role == "validation", 0] += 3 * (2 * labels[role == "validation"] - 1)
    if poisoned:
        features[role == "forget"] *= 5
        features[role == "forget", 0] = 9 * (2 * labels[role == "forget"] - 1)
    return subject_of(features, labels, role, Linear()), features.astype(np.float32).astype(np.float64)


def closed_form(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The gradient of each recording at weights 0, (rows, 2 x WIDTH)."""
    factor = 0.5 - (np.arange(2)[None] == labels[:, None])
    return (factor[:, :, None] * features[:, None, :]).reshape(len(labels), -1)


def test_gradients_and_slopes_are_those_of_the_closed_form() -> None:
    subject, features = linear(poisoned=True)
    rows = np.array([3, 40, 99])
    each = closed_form(features[rows], subject.labels[rows])
    assert mean_gradient(subject, rows).numpy() == pytest.approx(each.mean(0), rel=1e-5, abs=1e-7)
    direction = torch.arange(1.0, 2 * WIDTH + 1)
    expected = each @ direction.numpy() / float(direction.norm())
    assert slopes(subject, rows, direction) == pytest.approx(expected, rel=1e-6)


def test_taught_labels_count_where_they_differ() -> None:
    subject, features = linear(poisoned=False)
    rows = np.arange(5)
    taught = replace(subject, taught=1 - subject.labels)
    found = mean_gradient(taught, rows).numpy()
    assert found == pytest.approx(closed_form(features[rows], 1 - subject.labels[rows]).mean(0), rel=1e-5, abs=1e-7)


def test_alignment_is_that_of_the_closed_form_and_a_poisoned_request_ranks_first() -> None:
    subject, features = linear(poisoned=True)
    found = Alignment()(subject)
    each = closed_form(features, subject.labels)
    forget, retain, others = (each[subject.rows[name]].mean(0) for name in ("forget", "retain", "validation"))

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    expected = (cosine(forget, retain), cosine(forget, others), forget @ others, np.linalg.norm(forget))
    assert [found[name].value for name in NAMES] == pytest.approx(expected, rel=1e-4)
    for name in ("harm_predicted", "gradient_norm"):
        assert found[f"{name}_p"].value == 1 / 40 and found[f"{name}_random"].high < found[name].value
    entries = {name: value._asdict() for name, value in found.items()}
    assert "more than any of 39 random requests" in harm_sentence(entries)
    assert warning_sentence({"comparison": {"original": entries}}) == harm_sentence(entries)


def test_a_random_request_is_warned_of_in_one_case_of_twenty() -> None:
    found = [Alignment()(linear(poisoned=False, seed=seed)[0]) for seed in range(30)]
    warned_of = [bool(harm_sentence({name: value._asdict() for name, value in each.items()})) for each in found]
    assert sum(warned_of) <= 5
    ranks = [each["harm_predicted_p"].value for each in found]
    assert 0.3 < np.mean(ranks) < 0.7


def test_what_alignment_cannot_say_is_a_reason_or_an_error() -> None:
    subject, _ = linear(poisoned=False)
    alone = replace(subject, rows={**subject.rows, "validation": np.zeros(0, dtype=np.int64)})
    found = Alignment()(alone)
    assert set(found) == {f"{name}{end}" for name in NAMES for end in ENDS}
    assert all("no validation recordings" in value.reason for value in found.values())
    assert harm_sentence({name: {**value._asdict(), "value": None} for name, value in found.items()}) == ""
    with pytest.raises(UserError, match="randoms=39"):
        Alignment(randoms=19)
    for count in (0, 90):
        with pytest.raises(UserError, match="takes 1 to 89"):
            poison(subject, count)
    with pytest.raises(UserError, match="no validation recordings"):
        poison(alone, 5)


def test_the_poisoned_request_is_that_of_the_largest_harm() -> None:
    subject, _ = linear(poisoned=True)
    made = poison(subject, ASKED)
    assert made.rows.tolist() == subject.rows["forget"].tolist()
    others = mean_gradient(subject, subject.rows["validation"])
    assert made.predicted == pytest.approx(float(mean_gradient(subject, made.rows) @ others), rel=1e-3)
    assert made.predicted > 3 * made.random


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000), st.data())
def test_copies_are_chosen_together(count: int, units: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    rows, unit, harm = (
        np.sort(random.permutation(100)[:count]),
        random.integers(0, units, count),
        random.normal(size=count),
    )
    asked = data.draw(st.integers(1, count - 1))
    chosen = np.isin(rows, largest(rows, unit, harm, asked))
    assert chosen.sum() >= asked
    assert not set(unit[chosen]) & set(unit[~chosen])
    means = [harm[unit == one].mean() for one in np.unique(unit[chosen])]
    assert all(min(means) >= harm[unit == one].mean() for one in np.unique(unit[~chosen]))


def test_damage_is_what_each_percent_costs() -> None:
    tables = make_tables("sample", 0, 400, oracles=1)
    test, role = tables.subsets()["test"], tables.original.role
    percent = 100 * (role == "forget").sum() / ((role == "forget") | (role == "retain")).sum()
    for model in ("original", "oracle", "unlearned"):
        scores, found = tables.of(model), damage(tables, model)
        right = [(each.predicted == each.label)[test].mean() for each in (tables.original, scores)]
        assert found["damage_test"].value == pytest.approx((right[0] - right[1]) / percent)
        rise = (scores.loss - tables.original.loss)[test].mean()
        assert found["damage_loss_test"].value == pytest.approx(rise / percent)
        assert found["damage_test"].count == test.sum()
    result = {"comparison": compare(tables, ["speechforget.evaluation.damage.damage"])}
    assert "points" in damage_sentence(result) and damage_sentence({"comparison": {}}) == ""
    assert warning_sentence(result) == ""


def test_the_warning_comes_before_the_method_and_only_if_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = Alignment()(linear(poisoned=True)[0])
    made: list[Any] = []
    monkeypatch.setattr(
        warned, "attack", lambda run, model, options: made.append(options) or SimpleNamespace(folder="")
    )
    monkeypatch.setattr(warned, "read_values", lambda folder: values)
    other = {"_target_": "speechforget.attacks.probe.Probe"}
    for attacks in ([other], [other, {"_target_": warned.ALIGNMENT, "randoms": 39}]):
        run: Any = SimpleNamespace(config={"evaluation": {"attacks": attacks}})
        warned.warn_of_harm(run, None)  # type: ignore[arg-type]
    assert [options["_target_"] for options in made] == [warned.ALIGNMENT]
    assert len([record for record in caplog.records if "may hurt others" in record.message]) == 1


def test_a_list_that_cannot_be_made_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    there = tmp_path / "ids.txt"
    there.write_text("")
    for words, told in (
        ([str(tmp_path), str(there)], "exists already"),
        ([str(tmp_path), str(tmp_path / "new.txt")], "is not a result"),
        ([str(tmp_path), str(tmp_path / "new.txt"), "--percent", "100"], "--percent must be a share"),
    ):
        assert main(words) == 1
        assert told in capsys.readouterr().err and not (tmp_path / "new.txt").exists()
