"""Tilted answers and collapsed features: closed forms, limits and planted similarities."""

from __future__ import annotations

import pytest
import torch
from support.tiny import CLASS, CLASSES, SAMPLES, build, context_of, forget_batch, original, prepared, run
from torch import Tensor

from speechforget.batch import Batch
from speechforget.errors import UserError
from speechforget.methods.common.class_means import class_means, without_barred
from speechforget.methods.delete import Delete
from speechforget.methods.trew import similarity


def answers(batch: Batch) -> Tensor:
    with torch.no_grad():
        return original()(*batch.inputs).logits


def test_class_means_are_those_of_the_embeddings() -> None:
    method = build("trew")
    found = class_means(context_of(CLASS, method), ("forget", "retain"), 4)
    with torch.no_grad():
        embedding = original()(CLASS.waveform, CLASS.lengths).embedding
    expected = torch.stack([embedding[CLASS.labels == number].mean(0) for number in range(CLASSES)])
    assert torch.allclose(found, expected, atol=1e-5)
    retain = class_means(context_of(CLASS, method), ("retain",), 4)
    assert not retain[2].any() and torch.allclose(retain[0], expected[0], atol=1e-5)


def test_similarity_is_that_of_planted_directions() -> None:
    means = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]]) + 7
    found = similarity(means)
    assert found[0, 1] == pytest.approx(1.0) and torch.allclose(found.diagonal(), torch.ones(4))
    assert found[2, 3] == pytest.approx(0.0, abs=1e-6) and found[0, 2] == pytest.approx(-(0.5**0.5))
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_the_target_is_the_tilted_answer_without_the_class(beta: float) -> None:
    method, student = prepared(CLASS, "trew", beta=beta)
    batch = forget_batch(CLASS)
    chances = answers(batch).softmax(1) * (beta * method.get_buffer("similar")[2]).exp()
    chances[:, 2] = 0
    target = chances / chances.sum(1, keepdim=True)
    log = student(*batch.inputs).logits.log_softmax(1)
    rest = [0, 1, 3]
    expected = (target[:, rest] * (target[:, rest].log() - log[:, rest])).sum(1).mean()
    assert float(method.loss(student, batch, method.passes()[0])) == pytest.approx(float(expected), rel=1e-4)


def test_without_a_tilt_it_is_delete_on_forget() -> None:
    method, student = prepared(CLASS, "trew", beta=0.0)
    other = build("delete")
    assert isinstance(other, Delete)
    other.prepare(student, context_of(CLASS, other))
    batch = forget_batch(CLASS)
    losses = [float(each.loss(student, batch, each.passes()[0])) for each in (method, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_in_a_mix_each_utterance_has_its_own_loss() -> None:
    method, student = prepared(CLASS, "trew")
    rows = torch.arange(12)
    (both,) = CLASS.batches(rows, 99)
    parts = [next(CLASS.batches(rows[both.forget == which], 99)) for which in (True, False)]
    means = [float(method.loss(student, part, method.passes()[0])) * len(part.labels) for part in parts]
    assert float(method.loss(student, both, method.passes()[0])) == pytest.approx(sum(means) / 12, rel=1e-5)


def test_a_stronger_tilt_sends_forget_to_its_nearest_class() -> None:
    near = similarity(class_means(context_of(CLASS, build("trew")), ("forget", "retain"), 4))[2]
    near[2] = -9
    batch = forget_batch(CLASS)
    strong = {"beta": 50.0, "learning_rate": 0.05, "epochs": 20}
    student = run(CLASS, build("trew", **strong))
    with torch.no_grad():
        share = (student(*batch.inputs).logits.argmax(1) == near.argmax()).float().mean()
    assert share > 0.9


def test_the_class_itself_never_is_an_answer() -> None:
    logits, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    found = without_barred(logits, labels, (3,)).softmax(1)
    assert torch.allclose(found[:, 3], torch.zeros(3)) and not found[range(3), labels].any()
    with pytest.raises(UserError, match="No wrong class remains"):
        without_barred(torch.zeros(1, 2), torch.tensor([0]), (1,))


def test_cola_draws_forget_to_the_class_that_the_original_finds_likeliest_besides() -> None:
    method, _ = prepared(CLASS, "cola")
    batch = forget_batch(CLASS)
    logits = answers(batch)
    logits[:, 2] = -torch.inf
    assert torch.equal(method.clusters(batch), logits.argmax(1))
    (retain,) = CLASS.batches(CLASS.retain[:5], 9)
    assert torch.equal(method.clusters(retain), retain.labels)


def test_the_collapse_is_cross_entropy_of_scaled_cosines_and_leaves_the_head() -> None:
    method, student = prepared(CLASS, "cola")
    batch = forget_batch(CLASS)
    embedding, means = student(*batch.inputs).embedding, method.get_buffer("means")
    cosines = torch.nn.functional.cosine_similarity(embedding[:, None], means[None], dim=2) / method.temperature
    rest = cosines[:, [0, 1, 3]]
    goal = method.clusters(batch)
    chosen = cosines.gather(1, goal[:, None])[:, 0]
    loss = method.loss(student, batch, method.passes()[0])
    assert float(loss) == pytest.approx(float((rest.logsumexp(1) - chosen).mean()), rel=1e-4)
    loss.backward()
    assert student.head.weight.grad is None and student.conv.weight.grad is not None


def test_the_collapse_moves_features_of_forget_to_other_clusters() -> None:
    for problem in (CLASS, SAMPLES):
        method = build("cola", collapse_epochs=10, collapse_learning_rate=0.02, epochs=0)
        student = run(problem, method)
        batch = forget_batch(problem)
        goal = method.clusters(batch)
        with torch.no_grad():
            before = method.closeness(original()(*batch.inputs).embedding).log_softmax(1)
            after = method.closeness(student(*batch.inputs).embedding).log_softmax(1)
        assert after.gather(1, goal[:, None]).mean() > before.gather(1, goal[:, None]).mean()
        assert torch.equal(student.head.weight, original().head.weight)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="temperature must be above 0"):
        build("cola", temperature=0.0)
