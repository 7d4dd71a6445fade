"""Reference cases: what the methods' own code made of tiny problems, in a folder named by SPEECHFORGET_GOLDEN; and how ours is run on them.

A test module names the cases' methods it knows, and says how our method is built from a case's entry; `check` does the rest.
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

FOLDER = Path(os.environ.get("SPEECHFORGET_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
INDEX = FOLDER / "index.json"
CASES = json.loads(INDEX.read_text())["cases"] if INDEX.exists() else []


def cases(*methods: str) -> list:
    """Parameters for a test: the entries of some methods; one that is skipped where there are none."""
    chosen = [
        pytest.param(case, id=case["file"]) for case in CASES if case["kind"] == "method" and case["method"] in methods
    ]
    return chosen or [
        pytest.param(None, marks=pytest.mark.skip(reason=f"no reference cases of {sorted(methods)} in {FOLDER}"))
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in the order of the reference."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(nn.Module):
    """The reference networks: layers under the names that the arrays use, with the arrays' shapes. Features are the inputs themselves."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        # conv1, bn1, conv2, bn2, fc, or fc1, fc2: by number, batch-norm after its convolution, the one without a number last
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
    """One reference case: its arrays and data, and what our method is built of."""

    def __init__(self, entry: dict) -> None:
        self.entry, self.numbers, self.name = entry, entry["hyperparameters"], entry["method"]
        with np.load(FOLDER / entry["file"]) as file:
            self.arrays = dict(file)
        with np.load(FOLDER / f"problem-{entry['network']}.npz") as file:
            problem = dict(file)
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
        """The arrays of a snapshot, by parameter."""
        return {
            key.removeprefix(f"{prefix}."): torch.from_numpy(value)
            for key, value in self.arrays.items()
            if key.startswith(f"{prefix}.")
        }

    def flat(self, prefix: str) -> Tensor:
        """A snapshot's parameters in the order of `parameters()`."""
        parts = self.state(prefix)
        return torch.cat([parts[name].reshape(-1) for name, _ in self.original.named_parameters()])

    def has(self, prefix: str) -> bool:
        """Whether there is such a snapshot."""
        return any(key.startswith(f"{prefix}.") for key in self.arrays)

    def common(self) -> dict[str, Any]:
        """learning_rate, optimizer and clip of the entry, as our methods take them."""
        options = {
            key: value for key, value in self.entry["optimiser"].items() if key not in ("schedule", "clip_global_norm")
        }
        options["name"] = options["name"].lower()
        clip = self.entry["optimiser"].get("clip_global_norm", self.numbers.get("clip_global_norm"))
        return {"learning_rate": options.pop("lr"), "optimizer": options, "clip": clip}

    @property
    def mode(self) -> Any:
        """The batch-norm mode of the student: `train`, or `frozen` where the entry says eval."""
        found = re.search(r"\b(train|eval) mode", self.entry["mode"])
        assert found
        return {"train": "train", "eval": "frozen"}[found[1]]

    def batches(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """Some training samples in a given order."""
        forget = set(self.forget.tolist())
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            flags = torch.tensor([row in forget for row in part.tolist()])
            yield Batch((self.x[part],), self.y[part], torch.from_numpy(part), flags)

    def validation(self, size: int) -> Iterator[Batch]:
        """The test samples, in the place of validation; their numbers are none of the training samples'."""
        for start in range(0, len(self.test_y), size):
            x, y = self.test_x[start : start + size], self.test_y[start : start + size]
            yield Batch(
                (x,),
                y,
                torch.arange(len(self.y) + start, len(self.y) + start + len(y)),
                torch.zeros(len(y), dtype=torch.bool),
            )

    def stream(self, current: Pass, index: int) -> Iterator[Any]:
        """The steps of a pass in the order of the reference: no shuffling."""
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
        """One step of the first pass."""
        return iter([next(iter(self.stream(current, index)))] if index == 0 else [])

    def context(self) -> Context:
        """What our method may look at. A fresh network is the one that the case gives: a bad teacher, or re-initialised layers."""
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
        """The given labels instead of ours; -1 for retain samples."""
        position = {row: place for place, row in enumerate(self.forget.tolist())}
        given = self.arrays["labels"][epoch]
        return torch.tensor([given[position[row]] if row in position else -1 for row in batch.rows.tolist()])

    def evaluate(self, student: nn.Module) -> Callable[[str], float]:
        """Accuracy on forget, and on the test samples (of the forgotten class) in the place of validation."""
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
        """The state that our method ends in. prepared: puts given draws in the place of ours, before the first pass."""
        student = Network(self.state("before"))
        with one_thread():
            method.prepare(student, self.context())
            if prepared:
                prepared(method)
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
            equal = (
                torch.equal(ours, reference)
                if not reference.is_floating_point()
                else float((ours - reference).abs().max()) <= allowed
            )
            if not equal:
                missed.append(f"{prefix}.{name}: {float((ours - reference).abs().max()):.3g} > {allowed:.3g}")
        return missed

    def far(self, name: str, ours: Tensor) -> bool:
        """Whether a single given array (flat or not) is beyond the tolerance of the end."""
        expected = torch.from_numpy(np.asarray(self.arrays[name]))
        tolerance = self.entry["tolerance"]
        return float((ours.reshape(expected.shape) - expected).abs().max()) > tolerance["atol"] + tolerance["rtol"][
            "final"
        ] * float(expected.abs().max())

    def rule(self, prefix: str) -> str:
        """Which tolerance a snapshot has."""
        rules = self.entry["tolerance"]["rtol"]
        return prefix if prefix in rules else "final"


def check(
    case: Case, build: Callable[[int], Method], prepared: Callable[[Method], None] | None = None, epochs: str = "epochs"
) -> None:
    """Our method matches every snapshot of the case; where the case is of a known defect, it does not.

    build: our method for a number of epochs. epochs: the name of that number in the entry; a case without it is run once.
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
