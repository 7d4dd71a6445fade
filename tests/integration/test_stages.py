"""Training, unlearning and scoring on synthetic tones: deterministic, resumable, and equal to the plain loop."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.stage_runs import (
    CLASSES,
    CONF,
    DATASET,
    EACH,
    LABELS,
    MODEL,
    RATE,
    RECIPE,
    TRAINER,
    attribute,
    config,
    die_after,
    forgotten,
    job,
    same_weights,
    trained,
    unlearned,
)
from support.tiny import RETRAINED, options_of

from speechforget.data.batches.streams import Sources
from speechforget.errors import Diverged
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Context, Method, Pass
from speechforget.models.erased import erase
from speechforget.models.folder import build_classifier, load_classifier
from speechforget.models.lora import restrict
from speechforget.stages.build import watch_of
from speechforget.stages.score import score
from speechforget.stages.score_files import COLUMNS, column
from speechforget.stages.train import learning_rate_factor, train
from speechforget.stages.unlearn import (
    Unlearning,
    build_method,
    evaluator,
    ordered_batches,
    pass_stream,
    removed_of,
    unlearn,
)
from speechforget.training.cost_meter import Cost
from speechforget.training.finite import Watch
from speechforget.training.loop import FitSettings, measure


def same_curve(first: Path, second: Path) -> bool:
    """Every pass once, and the same numbers in it."""
    return (first / "curves.csv").read_bytes() == (second / "curves.csv").read_bytes()


def test_training_is_equal_to_the_bit(tmp_path: Path, sources: Sources, original: Path) -> None:
    assert same_weights(trained(tmp_path / "again", sources), original)
    assert not same_weights(trained(tmp_path / "other seed", sources, seed=1), original)


@pytest.mark.parametrize("epoch", [0, 2])
def test_training_resumes_exactly(
    epoch: int, tmp_path: Path, sources: Sources, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_after(epoch, monkeypatch, lambda: trained(tmp_path, sources))
    assert (tmp_path / "checkpoint.ckpt").exists() and not (tmp_path / "weights.safetensors").exists()
    trained(tmp_path, sources)
    assert same_weights(tmp_path, original) and same_curve(tmp_path, original)
    assert pd.read_csv(tmp_path / "curves.csv")["epoch"].tolist() == [0, 1, 2]
    assert not (tmp_path / "checkpoint.ckpt").exists()
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["forward_backward"] == 36 * 3
    assert cost["seconds"] > 0


METHODS = sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - RETRAINED)


# Decisions after a pass: LoTUS stops, here after the first of three; SCRUB takes an earlier model after its last.
DECIDING = {"lotus that stops": {"margin": -2.0, "epochs": 3}, "scrub that rewinds": {"rewind": True}}


# One optimiser for each kind of pass, and for each kind of step of one pass.
TWO = {f"{name} of two optimisers": {"optimizers": "two"} for name in ("scrub", "sfron")}
ITERATIVE = [name for name in METHODS if build_method(options_of(name)).passes()]


@pytest.mark.parametrize("name", [*ITERATIVE, *DECIDING, *TWO])
def test_unlearning_resumes_exactly(
    name: str, tmp_path: Path, sources: Sources, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from the last checkpoint for methods that decide after it; for all others, that is a nightly test."""
    resume(name, name in ("scrub", *DECIDING), tmp_path, sources, original, monkeypatch)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ITERATIVE)
def test_unlearning_resumes_exactly_from_the_last_checkpoint(
    name: str, tmp_path: Path, sources: Sources, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume(name, True, tmp_path, sources, original, monkeypatch)


def resume(
    name: str, also_last: bool, tmp_path: Path, sources: Sources, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a run after its second pass (and its last one), resume it, and compare it with an undisturbed run."""
    method = {**options_of(name.split(maxsplit=1)[0]), **(DECIDING | TWO).get(name, {})}
    unlearned(tmp_path / "quiet", original, sources, method)
    passes = len(pd.read_csv(tmp_path / "quiet" / "curves.csv"))
    assert name != "lotus that stops" or passes == 1
    for last in sorted({min(1, passes - 1), *([passes - 1] if also_last else [])}):
        killed = tmp_path / f"killed{last}"
        die_after(last, monkeypatch, lambda place=killed: unlearned(place, original, sources, method))
        unlearned(killed, original, sources, method)
        assert same_weights(killed, tmp_path / "quiet") and same_curve(killed, tmp_path / "quiet")
        costs = [json.loads((folder / "cost.json").read_text()) for folder in (killed, tmp_path / "quiet")]
        assert all(costs[0][name] == costs[1][name] for name in ("forward_backward", "forward"))


def test_the_curve_of_a_method_measures_the_model_that_it_leaves(
    tmp_path: Path, sources: Sources, original: Path
) -> None:
    """The last row has the accuracy and the mean cross-entropy of the saved model, each computed in one batch."""
    folder = unlearned(tmp_path / "one", original, sources, {**options_of("finetune"), "epochs": 2})
    rows, (classifier, _) = pd.read_csv(folder / "curves.csv"), load_classifier(folder)
    classifier.eval()
    for name in ("forget", "retain", "validation"):
        (batch,) = sources.ordered(name, 100)
        with torch.no_grad():
            logits = classifier(*batch.inputs).logits.double()
        right = (logits.argmax(dim=1) == batch.labels).double().mean()
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        assert rows[f"{name}/accuracy"].tolist()[-1] == pytest.approx(float(right))
        assert rows[f"{name}/loss"].tolist()[-1] == pytest.approx(float(loss), rel=1e-6)


class Overflow(Method):
    """An edit after which the model's weights, or its outputs, are not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def prepare(self, student: torch.nn.Module, context: Context) -> None:
        student.head.weight.data.fill_(self.value)  # type: ignore[union-attr, operator]


WATCH = Watch("The method some", "Lower some number.")


@pytest.mark.parametrize(
    ("change", "when"),
    [
        ({"name": "gradient_ascent", "learning_rate": 1e9, "epochs": 3}, r"in pass [123] of 3: .*\. Lower"),
        (
            {"_target_": "test_stages.Overflow", "value": float("nan")},
            "in its one step: numbers of head.weight are not finite. Lower",
        ),
    ],
)
def test_a_method_that_diverges_says_when_and_leaves_nothing_to_go_on_with(
    change: dict[str, Any], when: str, tmp_path: Path, sources: Sources, original: Path
) -> None:
    method = {**options_of(change["name"]), **change} if "name" in change else change
    watched = replace(job(tmp_path), watch=WATCH)
    for _ in range(2):  # the same again: nothing stands in its way, and nothing of it is taken for done
        with pytest.raises(Diverged, match=f"The method some diverged {when}"):
            unlearn(watched, original, sources, (), method)
        assert not list(tmp_path.glob("checkpoint*")) and not list(tmp_path.glob("weights*"))


def test_a_training_that_diverges_says_when_and_leaves_nothing_to_go_on_with(tmp_path: Path, sources: Sources) -> None:
    recipe = {**RECIPE, "learning_rate": 1e30, "warmup": 0}
    with pytest.raises(Diverged, match=r"diverged in epoch [123] of 3: .*not finite|is (nan|inf)"):
        train(job(tmp_path), sources, LABELS, DATASET, MODEL, recipe)
    assert not list(tmp_path.glob("checkpoint*")) and not list(tmp_path.glob("weights*"))


def test_outputs_that_are_not_finite_are_no_scores(tmp_path: Path, sources: Sources, original: Path) -> None:
    """Of weights that are: too large for what is made of them."""
    unlearn(job(tmp_path), original, sources, (), {"_target_": "test_stages.Overflow", "value": 3e38})
    with pytest.raises(FloatingPointError, match=r"outputs for \d+ of 48 utterances"):
        score(tmp_path, tmp_path, sources, TRAINER, "test")
    assert not any(column(tmp_path, name).exists() for name in COLUMNS)
    with pytest.raises(FloatingPointError, match="logits for"):
        measure(load_classifier(tmp_path)[0], sources.ordered("validation", 4), torch.device("cpu"))


def test_what_to_lower_is_named(configure: Callable[..., dict[str, Any]]) -> None:
    assert "train.learning_rate (it is 100)" in watch_of(configure("train.learning_rate=100"), "oracle").advice
    unsir = watch_of(configure("method=unsir", "trainer.precision=bf16-mixed"), "unlearned")
    assert (
        unsir.who == "The method unsir"
        and "method.impair_learning_rate" in unsir.advice
        and "trainer.precision=32-true" in unsir.advice
    )
    assert (
        "method.dampening" in watch_of(configure("method=ssd"), "unlearned").advice
        and "precision" not in watch_of(configure(), "original").advice
    )


@pytest.mark.parametrize("name", METHODS)
def test_lightning_does_what_the_plain_loop_does(name: str, tmp_path: Path, sources: Sources, original: Path) -> None:
    method = options_of(name)
    start = tmp_path / "plain"
    start.mkdir()
    parts = json.loads((original / "model.json").read_text())
    parts["model"]["dropout"] = 0.0
    (start / "model.json").write_text(json.dumps(parts))
    (start / "weights.safetensors").write_bytes((original / "weights.safetensors").read_bytes())
    unlearned(tmp_path / "lightning", start, sources, method)
    expected, _ = load_classifier(tmp_path / "lightning")

    classifier, _ = load_classifier(start)
    plain = build_method(method)
    student = copy.deepcopy(restrict(classifier, plain.trainable))

    def fresh() -> torch.nn.Module:
        from speechforget.models.folder import build_classifier
        from speechforget.seeding import seed_from

        torch.manual_seed(seed_from(0, "fresh"))
        return build_classifier({**MODEL, "dropout": 0.0}, CLASSES, RATE)

    cpu = torch.device("cpu")
    batches, removed = ordered_batches(plain, sources, cpu, 0), removed_of(attribute(method))
    context = Context(classifier, fresh, batches, CLASSES, forgotten(method), 0, attribute=removed, inserted=erase)
    plain.prepare(student, context)

    def stream(current: Pass, index: int) -> Any:
        return pass_stream(sources, plain, current, index, 0)

    Driver(
        plain, student, evaluator(plain, student, sources, cpu), lambda current, index: len(stream(current, index))
    ).run(stream)
    for (key, mine), theirs in zip(student.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), key


def test_undeclared_data_raises(sources: Sources) -> None:
    method = build_method(options_of("gradient_ascent"))
    with pytest.raises(RuntimeError, match="retain"):
        list(ordered_batches(method, sources, torch.device("cpu"), 0)("retain", 4))


def columns(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.load(column(folder, name)) for name in COLUMNS}


def test_scores_are_about_every_utterance_once(tmp_path: Path, sources: Sources, original: Path) -> None:
    score(tmp_path, original, sources, TRAINER, "test")
    arrays = columns(tmp_path)
    assert arrays["row"].tolist() == list(range(CLASSES * EACH))
    logits = torch.from_numpy(arrays["logits"]).double()
    assert np.allclose(
        arrays["loss"], -logits.log_softmax(1).numpy()[np.arange(len(logits)), arrays["label"]], rtol=1e-12
    )


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 4, 20, "cosine") for step in range(21)]
    assert factors[:4] == [0.2, 0.4, 0.6, 0.8] and factors[4] == 1.0
    assert factors[4:] == sorted(factors[4:], reverse=True) and factors[20] == pytest.approx(0.0)
    assert learning_rate_factor(15, 4, 20, "constant") == 1.0


def test_every_module_of_a_method_is_in_the_checkpoint(sources: Sources, original: Path) -> None:
    classifier, _ = load_classifier(original)
    method = build_method(options_of("scrub"))
    method.prepare(
        classifier,
        Context(
            classifier, lambda: classifier, ordered_batches(method, sources, torch.device("cpu"), 0), CLASSES, (), 0
        ),
    )
    names = (
        Unlearning(
            Driver(method, classifier, lambda name: 0.0),
            sources,
            FitSettings(original, TRAINER, 0, None, "test"),
            Cost(),
        )
        .state_dict()
        .keys()
    )
    assert any(name.startswith("student.") for name in names) and any(name.startswith("method.") for name in names)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train_and_unlearn(precision: str, tmp_path: Path, sources: Sources) -> None:
    trainer = {**TRAINER, "precision": precision}
    for name in ("original", "unlearned"):
        (tmp_path / name).mkdir()
    jobs = [FitSettings(tmp_path / name, trainer, 0, None, "test") for name in ("original", "unlearned")]
    train(jobs[0], sources, LABELS, DATASET, MODEL, RECIPE)
    unlearn(jobs[1], jobs[0].folder, sources, (), {**options_of("scrub"), "rewind": True})
    score(tmp_path, jobs[1].folder, sources, TRAINER, "test")
    assert np.isfinite(columns(tmp_path)["loss"]).all()


def test_accuracy_feeds_a_model_of_double_weights_what_it_can_take(sources: Sources) -> None:
    """Lightning feeds float64 to a float64 model in training; here a convolution on the waveform itself needs it."""
    torch.manual_seed(0)
    model = build_classifier(config("model", "m5"), CLASSES, RATE)
    stream = sources.ordered("train", 8)
    double, single = (measure(each, stream, torch.device("cpu")) for each in (copy.deepcopy(model).double(), model))
    assert double.accuracy == single.accuracy and double.loss == pytest.approx(single.loss, rel=1e-5)


def test_a_measured_loss_is_the_mean_cross_entropy(sources: Sources) -> None:
    model = build_classifier(config("model", "tcresnet"), CLASSES, RATE).eval()
    batches = list(sources.ordered("train", 8))
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(*each.inputs).logits, each.labels) for each in batches]
    mean = np.average([float(loss) for loss in losses], weights=[len(each.labels) for each in batches])
    assert measure(model, batches, torch.device("cpu")).loss == pytest.approx(mean, rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_to_the_same_weights_but_for_rounding(tmp_path: Path, sources: Sources) -> None:
    trained = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        train(
            FitSettings(folder, {**TRAINER, "compile": compiled}, 0, None, "test"),
            sources,
            LABELS,
            DATASET,
            {**MODEL, "dropout": 0.3},
            {**RECIPE, "epochs": 1},
        )
        trained.append(load_classifier(folder)[0].state_dict())
    assert trained[0].keys() == trained[1].keys()
    for name, weight in trained[0].items():
        assert torch.allclose(weight.float(), trained[1][name].float(), atol=1e-3), name
