"""Load the reference cases, and run our methods on them.

A reference case holds what the authors' code computes on a tiny problem; see `tests/reference/cases/README.md`.
The environment variable SPEECHFORGET_GOLDEN names another folder of cases.
A test module names the methods that it knows and says how to build ours from a case's entry; `check` does the rest.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechforget.batch import Batch, Pair, nothing
from speechforget.methods.base.driver import Driver
from speechforget.methods.base.method import Context, Method, Pass
from speechforget.models.classifier import Output

FOLDER = Path(os.environ.get("SPEECHFORGET_GOLDEN", Path(__file__).parents[1] / "reference" / "cases"))
CASES = json.loads((FOLDER / "index.json").read_text())["cases"]


def cases(*methods: str) -> list:
    """Return the entries of some methods as parameters of a test; one skipped parameter where there are none."""
    chosen = [
        pytest.param(case, id=case["file"]) for case in CASES if case["kind"] == "method" and case["method"] in methods
    ]
    skip = pytest.mark.skip(reason=f"no reference cases of {sorted(methods)} in {FOLDER}")
    return chosen or [pytest.param(None, marks=skip)]


def load(name: str) -> dict[str, np.ndarray]:
    """Read the arrays of one file."""
    with np.load(FOLDER / name, allow_pickle=False) as arrays:
        return dict(arrays)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run with one thread, so that sums are taken in the order of the reference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(nn.Module):
    """A reference network: its layers have the names and shapes of the arrays. Its features are its inputs."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        # The order is conv1, bn1, conv2, bn2, fc, or fc1, fc2.
        self.names = sorted(
            {key.rsplit(".", 1)[0] for key in state},
            key=lambda name: (not name[-1].isdigit(), name[-1], name.startswith("bn")),
        )
        for name in self.names:
            shape = state[f"{name}.weight"].shape
            if len(shape) == 3:
                layer: nn.Module = nn.Conv1d(shape[1], shape[0], shape[2], padding=shape[2] // 2)
            elif len(shape) == 2:
                layer = nn.Linear(shape[1], shape[0])
            else:
                layer = nn.BatchNorm1d(shape[0])
            self.add_module(name, layer)
        self.double().load_state_dict(state)

    @property
    def head(self) -> nn.Module:
        return self.get_submodule(self.names[-1])

    def layers(self) -> list[nn.Module]:
        return [self.get_submodule(name) for name in self.names]

    def get_submodule(self, target: str) -> nn.Module:
        return super().get_submodule(self.names[-1] if target == "head" else target)

    def frontend(self, x: Tensor) -> Tensor:
        return x

    def heard(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.ones_like(features, dtype=torch.bool)

    def classify(self, features: Tensor, lengths: Tensor | None = None) -> Output:
        return self(features)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Output:
        x = x if features is None else features
        *body, head = self.names
        for name in body:
            x = self.get_submodule(name)(x)
            if name.startswith(("bn", "fc")):
                x = x.relu()
        embedding = x.mean(dim=2) if x.ndim == 3 else x
        return Output(self.get_submodule(head)(embedding), embedding)


class Case:
    """One reference case: its arrays, its data, and the options for our method."""

    def __init__(self, entry: dict) -> None:
        self.entry, self.numbers, self.name = entry, entry["hyperparameters"], entry["method"]
        self.arrays, problem = load(entry["file"]), load(f"problem-{entry['network']}.npz")
        self.x, self.y = torch.from_numpy(problem["train_x"]), torch.from_numpy(problem["train_y"])
        self.test_x, self.test_y = torch.from_numpy(problem["test_x"]), torch.from_numpy(problem["test_y"])
        self.forget, self.retain = (problem[f"{entry['setting']}.{part}_index"] for part in ("forget", "retain"))
        used = re.search(r"first (\d+) retain", str(self.numbers.get("retain_used", "")))
        self.retain_used = self.retain[: int(used[1])] if used else self.retain
        self.classes = int(self.y.max()) + 1
        self.forgotten = (
            tuple(np.unique(problem["train_y"][self.forget]).tolist()) if entry["setting"] == "class" else ()
        )
        self.original = Network(self.state("before")).eval()

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays of a snapshot by parameter."""
        return {
            key.removeprefix(f"{prefix}."): torch.from_numpy(value)
            for key, value in self.arrays.items()
            if key.startswith(f"{prefix}.")
        }

    def flat(self, prefix: str) -> Tensor:
        """Concatenate a snapshot's parameters in the order of `parameters()`."""
        parts = self.state(prefix)
        return torch.cat([parts[name].reshape(-1) for name, _ in self.original.named_parameters()])

    def has(self, prefix: str) -> bool:
        """Tell whether the case has this snapshot."""
        return any(key.startswith(f"{prefix}.") for key in self.arrays)

    def common(self) -> dict[str, Any]:
        """Return learning_rate, optimizer and clip of the entry as our methods take them."""
        options = {
            key: value for key, value in self.entry["optimiser"].items() if key not in ("schedule", "clip_global_norm")
        }
        options["name"] = options["name"].lower()
        clip = self.entry["optimiser"].get("clip_global_norm", self.numbers.get("clip_global_norm"))
        return {"learning_rate": options.pop("lr"), "optimizer": options, "clip": clip}

    @property
    def mode(self) -> Any:
        """Return the batch-norm mode of the student: `train`, or `frozen` where the entry says eval."""
        found = re.search(r"\b(train|eval) mode", self.entry["mode"])
        assert found
        return {"train": "train", "eval": "frozen"}[found[1]]

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """Yield the batches of some training samples in this order."""
        forget = set(self.forget.tolist())
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            flags = torch.tensor([row in forget for row in part.tolist()])
            yield Batch((self.x[part],), self.y[part], torch.from_numpy(part), flags)

    def validation(self, size: int) -> Iterator[Batch]:
        """Yield the test samples as validation data, with row numbers that no training sample has."""
        for start in range(0, len(self.test_y), size):
            x, y = self.test_x[start : start + size], self.test_y[start : start + size]
            yield Batch(
                (x,),
                y,
                torch.arange(len(self.y) + start, len(self.y) + start + len(y)),
                torch.zeros(len(y), dtype=torch.bool),
            )

    def stream(self, current: Pass, index: int) -> Iterator[Any]:
        """Yield the steps of a pass in the order of the reference, which does not shuffle."""
        size = current.batch_size
        forget = list(self.batches(self.forget, current.forget_batch_size or size))
        retain = list(self.batches(self.retain_used, size))
        if current.stream == "nothing":
            assert isinstance(current.length, int)
            return iter([nothing() for _ in range(current.length)])
        if current.stream == "mix":
            together = np.concatenate([self.forget, self.retain_used])
            return self.batches(together[self.arrays["order"]] if "order" in self.arrays else together, size)
        lengths = {"forget": len(forget), "retain": len(retain), "longer": max(len(forget), len(retain))}
        steps = lengths[current.length] if isinstance(current.length, str) else current.length
        if current.stream == "both":
            first = itertools.cycle(forget) if current.again else itertools.chain(forget, itertools.repeat(None))
            return itertools.islice(map(Pair, first, itertools.cycle(retain)), steps)
        if current.stream == "turns":
            first, second = itertools.cycle(forget), itertools.cycle(retain)
            return (
                next(side)
                for step in range(steps)
                for side in ([first, second] if step % current.every == 0 else [second])
            )
        rows = {"forget": self.forget, "retain": self.retain_used}[current.stream]
        return itertools.chain(
            self.batches(rows[: current.first or 0], size), self.batches(rows[current.first or 0 :], size)
        )

    def first_step(self, current: Pass, index: int) -> Iterator[Any]:
        """Yield the first step of the first pass only."""
        return iter([next(iter(self.stream(current, index)))] if index == 0 else [])

    def context(self) -> Context:
        """Return the context of our method. Its fresh network is the case's bad teacher or re-initialised network."""
        fresh = next((prefix for prefix in ("bad_teacher", "reinit") if self.has(prefix)), "before")
        rows = {
            "forget": self.forget,
            "retain": self.retain_used,
            "train": np.sort(np.concatenate([self.forget, self.retain])),
        }
        return Context(
            original=self.original,
            fresh=lambda: Network(self.state(fresh)),
            batches=lambda name, size: (
                self.validation(size) if name == "validation" else self.batches(rows[name], size)
            ),
            classes=self.classes,
            forgotten=self.forgotten,
            seed=0,
        )

    def draw(self, batch: Batch, epoch: int) -> Tensor:
        """Return the labels that the case gives for forget samples, and -1 for retain samples."""
        position = {row: index for index, row in enumerate(self.forget.tolist())}
        given = self.arrays["labels"][epoch]
        return torch.tensor([given[position[row]] if row in position else -1 for row in batch.rows.tolist()])

    def evaluate(self, student: nn.Module) -> Callable[[str], float]:
        """Return a function that computes the accuracy on `forget`, or on the test samples as `validation`.

        Of a class request, validation is the test samples of the forgotten class.
        """
        shown = (
            torch.isin(self.test_y, torch.tensor(self.forgotten))
            if self.forgotten
            else torch.ones_like(self.test_y, dtype=torch.bool)
        )
        data = {
            "forget": (self.x[self.forget], self.y[self.forget]),
            "validation": (self.test_x[shown], self.test_y[shown]),
        }
        return lambda name: float((student(data[name][0]).logits.argmax(dim=1) == data[name][1]).double().mean())

    def run(
        self,
        method: Method,
        streams: Callable[[Pass, int], Iterator[Any]],
        prepared: Callable[[Method], None] | None = None,
    ) -> dict[str, Tensor]:
        """Run our method and return the final state.

        prepared: replaces our random draws by the case's, before the first pass.
        """
        student = Network(self.state("before"))
        with one_thread():
            method.prepare(student, self.context())
            if prepared:
                prepared(method)
            Driver(method, student, self.evaluate(student)).run(streams)
        return student.state_dict()

    def misses(self, prefix: str, state: dict[str, Tensor]) -> list[str]:
        """List what our state does not reproduce of the snapshot `prefix`."""
        tolerance = self.entry["tolerance"]
        expected = self.state(prefix)
        assert expected.keys() == state.keys()
        missed = []
        for name, reference in expected.items():
            ours = state[name]
            allowed = tolerance["atol"] + tolerance["rtol"][self.rule(prefix)] * float(reference.abs().max())
            equal = (
                torch.equal(ours, reference)
                if not reference.is_floating_point()
                else float((ours - reference).abs().max()) <= allowed
            )
            if not equal:
                missed.append(f"{prefix}.{name}: {float((ours - reference).abs().max()):.3g} > {allowed:.3g}")
        return missed

    def far(self, name: str, ours: Tensor) -> bool:
        """Tell whether ours differs from one array of the case, flat or not, by more than the final tolerance."""
        expected = torch.from_numpy(np.asarray(self.arrays[name]))
        tolerance = self.entry["tolerance"]
        return float((ours.reshape(expected.shape) - expected).abs().max()) > tolerance["atol"] + tolerance["rtol"][
            "final"
        ] * float(expected.abs().max())

    def rule(self, prefix: str) -> str:
        """Return the name of a snapshot's tolerance."""
        rules = self.entry["tolerance"]["rtol"]
        return prefix if prefix in rules else "final"


def check(
    case: Case, build: Callable[[int], Method], prepared: Callable[[Method], None] | None = None, epochs: str = "epochs"
) -> None:
    """Assert that our method matches every snapshot of the case, and does not match a case with a known defect.

    build: returns our method for a number of epochs. epochs: the entry's name of that number; without it, 1.
    """
    whole = int(case.numbers.get(epochs, 1))
    if case.entry["flag"] == "defect":
        if "hard_to_tell_from" in case.entry:
            pytest.skip(f"a defect that is hard to tell from {sorted(case.entry['hard_to_tell_from'])}")
        assert case.misses("final", case.run(build(whole), case.stream, prepared)), "a known defect is reproduced"
        return
    missed = case.misses("step1", case.run(build(1), case.first_step, prepared)) if case.has("step1") else []
    missed += case.misses("epoch1", case.run(build(1), case.stream, prepared)) if case.has("epoch1") else []
    missed += case.misses("final", case.run(build(whole), case.stream, prepared))
    assert not missed, "\n".join(missed)
