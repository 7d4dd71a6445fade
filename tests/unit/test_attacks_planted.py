"""Attacks on models find knowledge that is planted, and nothing where there is none: closed forms."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.planted import CLASSES, Planted, Silent, build, corpus, subject_of
from torch import nn

from speechforget.attacks.common.cross_fit import (
    Fitted,
    area,
    balanced_accuracy,
    cross_fit,
    folds_of,
    information,
    trials_of,
)
from speechforget.attacks.common.layers import layer_features
from speechforget.attacks.compression import estimate_again, halve, prune, quantise
from speechforget.attacks.noise_ball import white
from speechforget.attacks.prototype import with_prototypes
from speechforget.attacks.verification import equal_error_rate
from speechforget.models.classifier import Output

WIDTH = 16


def with_features(kind, code, noise=0.3, seed=0, **changes):
    """Return a subject; code: (facts) -> the planted part of the features, (n, WIDTH)."""
    facts = {**corpus(kind), **changes}
    features = np.random.default_rng(seed).normal(scale=noise, size=(len(facts["labels"]), WIDTH))
    return subject_of(features + code(facts), classifier=Planted(WIDTH, CLASSES), **facts)


def nothing(facts):
    return np.zeros((len(facts["labels"]), WIDTH))


def words(facts):
    return 3 * np.eye(WIDTH)[facts["labels"]]


def voices(facts):
    return 3 * np.eye(WIDTH)[CLASSES + np.unique(facts["speakers"], return_inverse=True)[1]]


def members(facts):
    return 3 * np.eye(WIDTH)[np.where(facts["role"] == "forget", WIDTH - 1, WIDTH - 2)]


def values_of(found, start):
    return {name: value for name, value in found.items() if name.startswith(start) and not name.endswith("nats")}


@pytest.mark.parametrize(
    ("kind", "code", "start", "bound"),
    [
        ("class", words, "probe_label", math.log(2)),
        ("sample", members, "probe_membership", math.log(2)),
        ("class", members, "probe_membership", math.log(2)),
        ("sample", voices, "probe_speaker", math.log(6)),
    ],
)
def test_a_probe_finds_what_is_planted(kind, code, start, bound):
    found = build("probe", strength=10.0)(with_features(kind, code))
    kept = {name: value for name, value in values_of(found, start).items() if not name.endswith("head")}
    assert kept and all(value.value == 1 for value in kept.values())
    nats = next(value for name, value in found.items() if name.startswith(start) and name.endswith("nats"))
    assert 0.9 * bound < nats.value <= bound


@pytest.mark.parametrize(
    ("kind", "start", "chance"), [("class", "probe_label", 0.5), ("sample", "probe_speaker", 1 / 6)]
)
def test_a_probe_of_random_features_guesses(kind, start, chance):
    found = values_of(build("probe")(with_features(kind, nothing)), start)
    inside = [value.low < chance < value.high for name, value in found.items() if not name.endswith("max")]
    assert len(inside) >= 3 and sum(inside) >= len(inside) - 1


def test_matching_by_label_gives_no_area_below_one_half():
    """The classes are matched by strata that the features tell: without care the area is 0.3 to 0.4."""
    strata = np.repeat(np.arange(8), 12)
    areas = {True: [], False: []}
    for seed in range(12):
        draw = np.random.default_rng(seed)
        features = np.eye(8)[strata] + draw.normal(scale=0.3, size=(len(strata), 8))
        target = np.concatenate([draw.permutation([1] * 4 + [0] * 8) for _ in range(8)])
        fold = folds_of(target, np.arange(len(target)), 5, seed)
        for centred, found in areas.items():
            fitted = cross_fit(features, target, fold, target >= 0, 0.1, strata if centred else None)
            found.append(area(fitted, target == 1, target == 0).value)
    assert abs(np.mean(areas[True]) - 0.5) < 0.05
    assert np.mean(areas[False]) < 0.42


def fitted_of(margin, fold):
    margin = np.asarray(margin, dtype=float)
    return Fitted(np.column_stack([np.zeros(len(margin)), margin]), np.asarray(fold))


def test_an_area_counts_pairs_of_one_fold_and_half_of_the_ties():
    target = np.array([1, 1, 0, 0, 1, 0])
    fitted = fitted_of([2, 1, 1, 0, -5, 9], [0, 0, 0, 0, 1, -1])
    found = area(fitted, target == 1, target == 0)
    assert found.value == 3.5 / 4 and found.count == 2  # the fold without a negative and the unjudged one do not count
    assert area(fitted, target == 0, target == 1).value == 0.5 / 4
    assert area(fitted_of([1, 0], [0, 1]), np.array([True, False]), np.array([False, True])).count == 0


def test_the_interval_of_an_area_is_that_of_hanley_and_mcneil():
    """Their example: 51 and 58 cases with an area of 0.893 have a standard error of 0.032."""
    assert math.sqrt(0.893 * 0.107 / trials_of(0.893, 51, 58)) == pytest.approx(0.032, abs=6e-4)
    assert trials_of(1.0, 5, 9) == 5  # no spread: the smaller side counts


def test_balanced_accuracy_and_information_have_closed_forms():
    target = np.array([0, 0, 0, 1, 2, 2])
    told = np.log(np.array([[0.8, 0.1, 0.1]] * 3 + [[0.8, 0.1, 0.1]] + [[0.1, 0.1, 0.8]] * 2))
    fitted, everyone = Fitted(told, np.zeros(6, dtype=int)), np.ones(6, dtype=bool)
    assert balanced_accuracy(fitted, target, everyone).value == pytest.approx(2 / 3)
    assert information(fitted, target, everyone) == pytest.approx(math.log(3) + (2 * math.log(0.8) + math.log(0.1)) / 3)
    uniform = Fitted(np.full((6, 3), -math.log(3)), np.zeros(6, dtype=int))
    assert information(uniform, target, everyone) == pytest.approx(0)


def test_a_group_is_in_one_fold():
    groups = np.arange(60) // 3
    fold = folds_of(np.arange(60) % 2, groups, 5, 0)
    assert set(fold) == set(range(5)) and all(len(set(fold[groups == group])) == 1 for group in groups)
    assert (folds_of(np.arange(60) % 2, np.zeros(60, dtype=int), 5, 0) == -1).all()


class Shapes(nn.Module):
    """Layers of every shape: convolutions, frames last and first, a tuple, one without a batch, one never called."""

    def __init__(self):
        super().__init__()
        self.frontend = Silent()
        self.deep, self.flat = nn.Conv2d(1, 3, 1), nn.Conv1d(3, 4, 1)
        self.tokens, self.pair = nn.Linear(4, 5), nn.LSTM(5, 6, batch_first=True)
        self.table, self.unused, self.head = nn.Embedding(7, 8), nn.Linear(1, 1), nn.Linear(6, 2)

    def forward(self, waveform, lengths, features=None):
        x = self.flat(self.deep(waveform[:, None, None].expand(-1, -1, 9, -1)).mean(2))
        x, _ = self.pair(self.tokens(x.transpose(1, 2)))
        self.table(torch.arange(7))
        return Output(self.head(x.mean(1)), x.mean(1))

    def layers(self):
        return [self.deep, self.flat, self.tokens, self.pair, self.table, self.unused, self.head]


def test_layers_of_every_shape_become_one_vector_per_utterance():
    facts = corpus("sample")
    subject = subject_of(np.ones((len(facts["labels"]), 10)), classifier=Shapes(), **facts)
    found = layer_features(subject, np.arange(11))
    widths = {name: values.shape for name, values in found.items()}
    assert widths == {
        name: (11, width)
        for name, width in {"deep": 3, "flat": 4, "tokens": 5, "pair": 6, "embedding": 6, "head": 2}.items()
    }


@pytest.mark.parametrize(
    ("targets", "impostors", "rate"),
    [
        ([0.8, 0.9], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([1.0, 3.0], [0.0, 2.0], 0.5),
        ([1.0, 2.0, 3.0, 4.0], [-1.0, 0.0, 0.5, 1.5], 0.25),
        ([0.5, 0.5], [0.5, 0.5], 0.5),
    ],
)
def test_an_equal_error_rate_has_closed_forms(targets, impostors, rate):
    assert equal_error_rate(np.array(targets), np.array(impostors)) == pytest.approx(rate)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_an_equal_error_rate_is_a_share_and_mirrors(targets, impostors):
    rate = equal_error_rate(np.array(targets), np.array(impostors))
    assert 0 <= rate <= 1
    assert equal_error_rate(-np.array(impostors), -np.array(targets)) == pytest.approx(rate, abs=1e-9)


def test_normal_scores_have_the_error_of_their_formula():
    draw = np.random.default_rng(0)
    rate = equal_error_rate(draw.normal(2, 1, 20000), draw.normal(0, 1, 20000))
    assert rate == pytest.approx(NormalDist().cdf(-1), abs=0.006)
    assert equal_error_rate(draw.normal(size=20000), draw.normal(size=20000)) == pytest.approx(0.5, abs=0.01)


def test_forgotten_voices_are_verified_where_the_embedding_holds_them():
    found = build("verification")(with_features("speaker", voices, noise=0.05))
    assert found["verification_eer"].value < 0.01
    assert found["verification_rank1"].value == 1 and found["verification_rank1_impostors"].value == 1
    blind = build("verification")(with_features("speaker", nothing))
    assert blind["verification_eer"].value == pytest.approx(0.5, abs=0.1)
    assert blind["verification_rank1"].value < 0.5
    for kind, changes, said in (("sample", {}, "no speaker whole"), ("speaker", {"speakers": None}, "who speaks")):
        missing = build("verification")(with_features(kind, nothing, **changes))
        assert all(said in value.reason for value in missing.values())


def test_prototypes_find_kept_features_under_a_head_that_lost_them():
    subject = with_features("class", words)
    with torch.no_grad():
        subject.classifier.head.bias[1] = -1e4
    assert not subject.right(subject.rows["forget"]).any()
    found = build("prototype")(subject)
    assert found["prototype_1_accuracy"].value == 1 and found["prototype_10_accuracy"].value == 1


def test_a_prototype_of_nothing_takes_as_much_of_forget_as_of_others():
    facts = corpus("class", copies=20)
    features = np.random.default_rng(0).normal(size=(len(facts["labels"]), WIDTH))
    found = build("prototype", taken=0.2)(subject_of(features, **facts))
    assert found["prototype_10_accuracy"].value == pytest.approx(0.2, abs=0.06)


def test_prototypes_of_all_classes_need_no_others_and_of_some_need_enough():
    samples = build("prototype", shots=[1])(with_features("sample", words))
    assert samples["prototype_1_accuracy"].value > 0.9
    role = corpus("class")["role"]
    few = with_features(
        "class", words, role=np.where(role == "holdout", "test", role), nonmembers=np.zeros(0, dtype=np.int64)
    )
    assert "too few utterances of classes" in build("prototype")(few)["prototype_1_accuracy"].reason


def test_a_new_row_has_the_mean_norm_and_bias_of_the_others():
    head = nn.Linear(3, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0, 0], [9, 9, 9], [0, 0, 5]]))
        head.bias.copy_(torch.tensor([1.0, 9, 3]))
    changed = with_prototypes(head, {1: torch.tensor([0.0, 0.1, 0])})
    assert changed.weight[1].tolist() == pytest.approx([0, 4, 0]) and changed.bias[1].item() == pytest.approx(2)
    assert torch.equal(changed.weight[[0, 2]], head.weight[[0, 2]]) and head.weight[1, 0] == 9


def test_shots_leave_copies_out_of_the_rest():
    facts = corpus("class", copies=4)
    units = np.arange(len(facts["labels"])) // 2  # every utterance twice
    subject = subject_of(np.zeros((len(units), 2)), units=units, **facts)
    picked, rest = subject.shots(3, "test")
    assert len(picked) == 3 and len(set(units[picked])) == 3
    assert not set(units[picked]) & set(units[rest]) and len(rest) == len(subject.rows["forget"]) - 6
    assert [len(part) for part in subject.shots(len(subject.rows["forget"]), "test")] == [0, 0]


def test_a_curve_starts_at_the_model_and_its_area_is_the_trapezoid():
    subject = with_features("class", words)
    before = subject.right(subject.rows["forget"]).mean()
    still = build("relearning", learning_rate=1e-12, steps=3)(subject)
    assert still["relearn_retain_final"].value == before == still["relearn_retain_area"].value
    with torch.no_grad():
        subject.classifier.head.weight.zero_()
        subject.classifier.head.bias.copy_(torch.tensor([0.0, -0.5, 0, 0]))
    one = build("relearning", learning_rate=1.0, steps=1)(subject)  # one step of Adam moves each weight by its rate
    assert one["relearn_head_final"].value == 1 and one["relearn_head_area"].value == 0.5
    assert one["relearn_5_final"].value == 1 and one["relearn_retain_final"].value == 0


def test_a_diverged_copy_is_a_reason():
    found = build("relearning", learning_rate=1e36)(with_features("class", words))
    assert found["relearn_5_final"].reason == "fine-tuning diverged"


def exact(bits):
    """Return weights that so many bits hold exactly."""
    levels = 2 ** (bits - 1) - 1
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-levels, levels + 1, (WIDTH, WIDTH), generator=draw).float()
    weight[:, 0] = levels
    return weight * 2.0 ** torch.arange(-WIDTH, 0)[:, None]


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_so_many_bits_are_not_changed_by_quantising(bits):
    classifier = Planted(WIDTH, CLASSES)
    with torch.no_grad():
        classifier.encoder.weight.copy_(exact(bits))
        classifier.head.weight.copy_(exact(bits)[:CLASSES])
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    quantise(classifier, bits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    quantise(classifier, 2)
    scale = before["encoder.weight"].abs().amax(1, keepdim=True)
    assert set((classifier.encoder.weight / scale).unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_quantising_moves_a_weight_by_half_a_step_at_most_and_zeros_stay():
    classifier = Planted(WIDTH, CLASSES)
    nn.init.normal_(classifier.encoder.weight)
    nn.init.zeros_(classifier.head.weight)
    before, bias = classifier.encoder.weight.clone(), classifier.head.bias.clone()
    quantise(classifier, 8)
    step = before.abs().amax(1, keepdim=True) / 127
    moved = (classifier.encoder.weight - before).abs()
    assert (moved <= step / 2 * 1.001).all() and moved.max() > 0
    assert not classifier.head.weight.any() and torch.equal(classifier.head.bias, bias)


def test_pruning_removes_the_smallest_of_all_layers_together():
    classifier = Planted(2, 2)
    with torch.no_grad():
        classifier.encoder.weight.copy_(torch.tensor([[0.1, -0.2], [0.3, 5.0]]))
        classifier.head.weight.copy_(torch.tensor([[-0.4, 6.0], [7.0, 8.0]]))
    prune(classifier, 0.5)
    assert classifier.encoder.weight.tolist() == [[0, 0], [0, 5]] and classifier.head.weight.tolist() == [
        [0, 6],
        [7, 8],
    ]
    prune(classifier, 0.0)
    assert classifier.head.weight.tolist() == [[0, 6], [7, 8]]


def test_half_precision_rounds():
    classifier = Planted(2, 2)
    with torch.no_grad():
        classifier.encoder.weight.copy_(torch.tensor([[1.0, 1 + 2**-12], [0.5, 2**-10]]))
    halve(classifier)
    assert classifier.encoder.weight.tolist() == [[1.0, 1.0], [0.5, 2**-10]]


def test_estimating_the_norm_again_undoes_shifted_statistics():
    facts = corpus("class")
    features = np.random.default_rng(0).normal(3, 2, size=(len(facts["labels"]), WIDTH)) + words(facts)
    subject = subject_of(features, classifier=Planted(WIDTH, CLASSES, norm=True), **facts)
    copied, retain = subject.copy(), subject.rows["retain"]
    assert estimate_again(copied, subject, retain, len(retain)) is None
    values = torch.from_numpy(features[retain]).float()
    torch.testing.assert_close(copied.norm.running_mean, values.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(copied.norm.running_var, values.var(0), rtol=1e-4, atol=1e-4)
    assert not copied.norm.training
    found = build("compression")(with_features("class", words))
    assert "no batch normalisation" in found["batch_norm_accuracy_forget"].reason


def test_a_change_is_paired_and_the_unchanged_model_has_none():
    found = build("compression", bits=[16], pruning=[0.0])(with_features("class", words))
    for name in ("int16", "fp16", "pruned_0"):
        change = found[f"{name}_change_forget"]
        assert change.value == 0 and change.low < 0 < change.high and change.low == pytest.approx(-change.high)


def test_a_linear_model_in_a_ball_has_the_share_of_the_normal_distribution():
    """Two classes told by w: noise of the utterance's power over the ratio crosses the margin by a known chance."""
    width, count = 256, 400
    draw = np.random.default_rng(0)
    direction = np.ones(width) / math.sqrt(width)
    features = draw.normal(size=(count, width))
    features += (0.5 - features @ direction)[:, None] * direction  # every margin is 0.5
    role = np.repeat(["forget", "retain"], [count - 2, 2])
    classifier = Planted(width, 2)
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(np.stack([-direction, direction])))
        classifier.head.bias.zero_()
    subject = subject_of(features, np.ones(count, dtype=np.int64), role, classifier)
    found = build("noise_ball", snr=[20, 10, 0], draws=20)(subject)
    for snr in (20, 10, 0):
        power = np.sqrt((features[: count - 2] ** 2).mean(1)) * 10 ** (-snr / 20)
        share = np.mean([NormalDist().cdf(0.5 / each) for each in power])
        assert found[f"noise_{snr}db_accuracy_forget"].value == pytest.approx(share, abs=0.015)
        assert found[f"noise_{snr}db_accuracy_forget"].count == count - 2


def test_noise_depends_on_the_utterance_and_not_on_its_batch():
    together = white(np.arange(5), 1000, 0, 1)
    assert torch.equal(together[3:4], white(np.array([3]), 1000, 0, 1))
    assert not torch.equal(together[0], together[1]) and not torch.equal(together, white(np.arange(5), 1000, 0, 2))
    assert together.std().item() == pytest.approx(1, abs=0.05)
