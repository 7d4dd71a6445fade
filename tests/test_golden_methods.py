"""Our methods against the numbers of the authors' code, on the tiny problems of a folder named by SPEECHFORGET_GOLDEN."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechforget.batch import Batch
from speechforget.methods.bad_teaching import BadTeaching
from speechforget.methods.driver import Driver
from speechforget.methods.finetune import Finetune
from speechforget.methods.gradient_ascent import GradientAscent
from speechforget.methods.method import Context, Method, Pass
from speechforget.methods.random_label import RandomLabel
from speechforget.methods.salun import SalUn, saliency, top
from speechforget.methods.scrub import Scrub
from speechforget.models.classifier import Output

FOLDER = Path(os.environ.get("SPEECHFORGET_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
METHODS = {"ft", "ga", "randomlabel", "salun", "scrub", "badteaching", "unsluft", "unslung", "unsluscrub"}
INDEX = FOLDER / "index.json"
CASES = json.loads(INDEX.read_text())["cases"] if INDEX.exists() else []
Arrays = dict[str, np.ndarray]


def cases(methods: set[str]) -> list:
    chosen = [pytest.param(case, id=case["file"]) for case in CASES if case["kind"] == "method" and case["method"] in methods]
    return chosen or [pytest.param(None, marks=pytest.mark.skip(reason=f"no reference cases of {sorted(methods)} in {FOLDER}"))]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(nn.Module):
    """The reference networks: layers under the names that the arrays use, with the arrays' shapes."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        # conv1, bn1, conv2, bn2, fc, or fc1, fc2: by number, batch-norm after its convolution, the one without a number last
        for name in sorted({key.rsplit(".", 1)[0] for key in state}, key=lambda name: (not name[-1].isdigit(), name[-1], name.startswith("bn"))):
            shape = state[f"{name}.weight"].shape
            if len(shape) == 3:
                layer: nn.Module = nn.Conv1d(shape[1], shape[0], shape[2], padding=shape[2] // 2)
            elif len(shape) == 2:
                layer = nn.Linear(shape[1], shape[0])
            else:
                layer = nn.BatchNorm1d(shape[0])
            self.add_module(name, layer)
        self.double().load_state_dict(state)

    def forward(self, x: Tensor) -> Output:
        layers = dict(self.named_children())
        *body, head = layers
        for name in body:
            x = layers[name](x)
            if name.startswith(("bn", "fc")):
                x = x.relu()
        embedding = x.mean(dim=2) if x.ndim == 3 else x
        return Output(layers[head](embedding), embedding)


class Case:
    """One reference case: its arrays and data, and our method built from its entry."""

    def __init__(self, entry: dict) -> None:
        self.entry = entry
        self.numbers = entry["hyperparameters"]
        with np.load(FOLDER / entry["file"]) as file:
            self.arrays = dict(file)
        with np.load(FOLDER / f"problem-{entry['network']}.npz") as file:
            problem = dict(file)
        self.x, self.y = torch.from_numpy(problem["train_x"]), torch.from_numpy(problem["train_y"])
        self.test_x, self.test_y = torch.from_numpy(problem["test_x"]), torch.from_numpy(problem["test_y"])
        self.forget, self.retain = (problem[f"{entry['setting']}.{part}_index"] for part in ("forget", "retain"))
        self.classes = int(self.y.max()) + 1
        self.forgotten = tuple(np.unique(problem["train_y"][self.forget]).tolist()) if entry["setting"] == "class" else ()
        self.original = Network(self.state("before")).eval()

    def state(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{prefix}."): torch.from_numpy(value) for key, value in self.arrays.items() if key.startswith(f"{prefix}.")}

    def batches(self, rows: np.ndarray) -> Iterator[Batch]:
        forget = set(self.forget.tolist())
        for start in range(0, len(rows), self.entry["batch_size"]):
            part = rows[start : start + self.entry["batch_size"]]
            flags = torch.tensor([row in forget for row in part.tolist()])
            yield Batch((self.x[part],), self.y[part], torch.from_numpy(part), flags)

    def stream(self, current: Pass, index: int) -> Iterator[Batch]:
        del index
        if current.stream == "mix":
            used = len(self.arrays["order"]) - len(self.forget)
            return self.batches(np.concatenate([self.forget, self.retain[:used]])[self.arrays["order"]])
        return self.batches({"forget": self.forget, "retain": self.retain}[current.stream])

    def first_step(self, current: Pass, index: int) -> Iterator[Batch]:
        return iter([next(self.stream(current, index))] if index == 0 else [])

    def context(self) -> Context:
        return Context(
            original=self.original,
            fresh=lambda: Network(self.state("bad_teacher")),
            batches=lambda name, size: self.batches({"forget": self.forget}[name]),
            classes=self.classes,
            forgotten=self.forgotten,
            seed=0,
        )

    def method(self, epochs: int, **changes: object) -> Method:
        """Our method with the numbers of the entry."""
        entry, numbers = self.entry, self.numbers
        options = dict(entry["optimiser"])
        options["name"] = options["name"].lower()
        found = re.search(r"\b(train|eval) mode", entry["mode"])
        assert found
        mode = {"train": "train", "eval": "frozen"}[found[1]]
        common = {"learning_rate": options.pop("lr"), "epochs": epochs, "optimizer": options, "clip": numbers.get("clip_global_norm")}
        size = entry["batch_size"]
        name = entry["method"]
        if name in ("ft", "unsluft", "ga", "unslung"):
            return (Finetune if name.endswith("ft") else GradientAscent)(**common, batch_size=size, batch_norm=mode)
        if name == "badteaching":
            share = numbers["retain_fraction"]
            return BadTeaching(**common, batch_size=size, temperature=numbers["temperature"], retain_share=share, batch_norm=mode)
        modes = {"forget_batch_norm": mode, "retain_batch_norm": mode}
        if name in ("scrub", "unsluscrub"):
            steps = numbers["msteps"] if isinstance(numbers["msteps"], int) else epochs
            schedule = {"decay_after": numbers.get("lr_decay_epochs", ()), "decay": numbers.get("lr_decay_rate", 1.0)}
            weights = {key: numbers[key] for key in ("alpha", "gamma", "temperature")}
            chosen = {"forget_epochs": steps, "forget_batch_size": size, "retain_batch_size": size, **schedule, **weights, **modes, **changes}
            return Scrub(**common, **chosen)  # type: ignore[arg-type]
        modes["order"] = "joint" if "order" in self.arrays else "sequential"
        if name == "salun":
            return SalUn(mask_share=numbers["mask_fraction"], mask_batch_size=size, batch_size=size, **common, **modes)
        return RandomLabel(**common, batch_size=size, **modes)

    def draw(self, batch: Batch, epoch: int) -> Tensor:
        """The given labels instead of ours."""
        position = {row: place for place, row in enumerate(self.forget.tolist())}
        given = self.arrays["labels"][epoch]
        return torch.tensor([given[position[row]] if row in position else -1 for row in batch.rows.tolist()])

    def evaluate(self, student: nn.Module) -> Callable[[str], float]:
        """Accuracy on forget, and on the test samples (of the forgotten class) in the place of validation."""
        shown = torch.isin(self.test_y, torch.tensor(self.forgotten)) if self.forgotten else torch.ones_like(self.test_y, dtype=torch.bool)
        data = {"forget": (self.x[self.forget], self.y[self.forget]), "validation": (self.test_x[shown], self.test_y[shown])}
        return lambda name: float((student(data[name][0]).logits.argmax(dim=1) == data[name][1]).double().mean())

    def run(self, method: Method, streams: Callable[[Pass, int], Iterator[Batch]]) -> dict[str, Tensor]:
        student = Network(self.state("before"))
        method.prepare(student, self.context())
        labelling = getattr(method, "relabel", method)
        if isinstance(labelling, RandomLabel):
            labelling.draw = self.draw  # type: ignore[method-assign]
        if isinstance(method, SalUn):
            masks = self.state("mask")
            method.mask.copy_(torch.cat([masks[name].reshape(-1) for name, _ in student.named_parameters()]).bool())
        Driver(method, student, self.evaluate(student)).run(streams)
        return student.state_dict()

    def misses(self, prefix: str, state: dict[str, Tensor]) -> list[str]:
        """What of the snapshot `prefix` our state does not reproduce."""
        tolerance = self.entry["tolerance"]
        expected = self.state(prefix)
        assert expected.keys() == state.keys()
        missed = []
        for name, reference in expected.items():
            ours = state[name]
            allowed = tolerance["atol"] + tolerance["rtol"][self.rule(prefix)] * float(reference.abs().max())
            equal = torch.equal(ours, reference) if not reference.is_floating_point() else float((ours - reference).abs().max()) <= allowed
            if not equal:
                missed.append(f"{prefix}.{name}: {float((ours - reference).abs().max()):.3g} > {allowed:.3g}")
        return missed

    def rule(self, prefix: str) -> str:
        rules = self.entry["tolerance"]["rtol"]
        return prefix if prefix in rules else "final"

    def has(self, prefix: str) -> bool:
        return any(key.startswith(f"{prefix}.") for key in self.arrays)


@pytest.mark.parametrize("entry", cases(METHODS))
def test_method_against_reference(entry: dict) -> None:
    case = Case(entry)
    epochs = case.numbers["epochs"]
    if entry["flag"] == "defect":
        if "hard_to_tell_from" in entry:
            pytest.skip(f"a defect that is hard to tell from {sorted(entry['hard_to_tell_from'])}")
        assert case.misses("final", case.run(case.method(epochs), case.stream)), "a known defect is reproduced"
        return
    missed = case.misses("step1", case.run(case.method(1), case.first_step)) if case.has("step1") else []
    missed += case.misses("epoch1", case.run(case.method(1), case.stream)) if case.has("epoch1") else []
    assert not missed + case.misses("final", case.run(case.method(epochs), case.stream))


@pytest.mark.parametrize("entry", cases({"scrub"}))
def test_scrub_epoch_by_epoch_and_rewound(entry: dict) -> None:
    case = Case(entry)
    epochs = case.numbers["epochs"]
    for done in range(1, epochs):
        assert not case.misses(f"after{done}", case.run(case.method(done), case.stream))
    assert not case.misses("stepmin", case.run(case.method(1, forget_epochs=0), case.first_step))
    rates = [current.learning_rate for current in case.method(epochs).passes() if current.stream == "retain"]
    np.testing.assert_allclose(rates, case.arrays["lr"], rtol=1e-12)

    errors = []
    for done in range(epochs + 1):
        student = Network(case.run(case.method(done), case.stream)).eval()
        errors.append(1 - case.evaluate(student)("forget"))
    np.testing.assert_allclose(errors, case.arrays["forget_error"], atol=1e-12)
    np.testing.assert_allclose(1 - case.evaluate(student)("validation"), case.arrays["reference_error"], atol=1e-12)
    chosen = int(case.arrays["rewind_index"])
    prefix = "before" if chosen == 0 else "final" if chosen == epochs else f"after{chosen}"
    assert not case.misses(prefix, case.run(case.method(epochs, rewind=True), case.stream))


@pytest.mark.parametrize("entry", cases({"salunmask"}))
def test_salun_mask(entry: dict) -> None:
    case = Case(entry)
    context = Context(case.original, lambda: case.original, lambda name, size: case.batches(case.forget), 5, (), 0)
    scores = saliency(context, 1)

    def flat(prefix: str) -> Tensor:
        parts = case.state(prefix)
        return torch.cat([parts[name].reshape(-1) for name, _ in case.original.named_parameters()])

    expected = flat("saliency")
    allowed = entry["tolerance"]["atol"] + entry["tolerance"]["rtol"]["final"] * float(expected.max())
    assert float((scores - expected).abs().max()) <= allowed
    assert not case.misses("final", case.original.state_dict())
    for fraction, gap in zip(sorted(case.numbers["fractions"]), case.arrays["cut_gap"], strict=True):
        given, ours = flat(f"mask_{fraction}").bool(), top(scores, fraction)
        assert int(ours.sum()) == int(fraction * len(scores)) == int(given.sum())
        if gap > 2 * allowed:
            assert torch.equal(ours, given)
        else:  # a tie at the cut: any choice among the tied is valid
            cut = float(expected[given].min())
            assert bool((ours == given)[(expected - cut).abs() > 2 * allowed].all())
