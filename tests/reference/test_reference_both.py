"""Compare negative gradient, MUNBa and SFRon with the authors' code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.reference_cases import Case, cases, check
from torch import Tensor

from speechforget.batch import Pair
from speechforget.methods import munba
from speechforget.methods.base.method import Method, Pass
from speechforget.methods.common.importance import over_batches
from speechforget.methods.common.losses import cross_entropy
from speechforget.methods.munba import MUNBa
from speechforget.methods.negative_gradient import NegativeGradient
from speechforget.methods.sfron import SFRon

bargain = munba.bargain


def shared(case: Case) -> dict[str, Any]:
    """Return the options that all three methods take."""
    size = case.entry["batch_size"]
    mode = "train" if "updates in train mode" in case.entry["mode"] else case.mode
    return {**case.common(), "batch_size": size, "forget_batch_size": size, "batch_norm": mode}


def negative_gradient(case: Case, epochs: int) -> Method:
    alpha = case.numbers.get("alpha")
    weights = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return NegativeGradient(**shared(case), epochs=epochs, retain_weight=weights[0], forget_weight=weights[1])


def unequal_skipped(case: Case) -> Callable[[Pass, int], Iterator[Any]]:
    """Return a stream of pairs of equal size; forget continues where the last epoch stopped."""

    def stream(current: Pass, index: int) -> Iterator[Any]:
        size = current.batch_size
        forget, retain = list(case.batches(case.forget, size)), list(case.batches(case.retain_used, size))
        going_on = itertools.islice(itertools.cycle(forget), index * len(retain), None)
        pairs = map(Pair, going_on, retain)
        return (pair for pair in pairs if pair.forget is not None and len(pair.forget.rows) == len(pair.retain.rows))

    return stream


@pytest.mark.parametrize("entry", cases("neggradplus", "unsluang"))
def test_negative_gradient(entry: dict) -> None:
    case = Case(entry)
    if "skipped" in entry["batch_order"]:
        case.stream = unequal_skipped(case)  # type: ignore[method-assign]
    check(case, partial(negative_gradient, case))


def bargainer(case: Case, epochs: int) -> Method:
    return MUNBa(**shared(case), epochs=epochs, fallback=float(case.numbers["fallback"].split("+")[1].split("*")[0]))


def given_labels(case: Case, method: Method) -> None:
    method.draw = case.draw  # type: ignore[assignment]


def released(retain: Tensor, forget: Tensor, fallback: float) -> tuple[float, float]:
    """Compute the weights by the public closed form; its guards of 1e-8 make the only difference to ours."""
    g11, g22, g12 = float(retain @ retain), float(forget @ forget), float(retain @ forget)
    first = math.sqrt((g11 * g22 - g12 * math.sqrt(g11 * g22)) / (g11**2 * g22 - g11 * g12**2 + 1e-8))
    return first, (1 - g11 * first**2) / (g12 * first + 1e-8)


@pytest.mark.parametrize("entry", cases("munba"))
def test_munba(entry: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(entry)
    seen: list[tuple[float, float]] = []
    weights = released if entry["flag"] == "reference" else bargain

    def watched(retain: Tensor, forget: Tensor, fallback: float) -> tuple[float, float]:
        differ_by_the_guards(retain, forget, fallback)
        seen.append(weights(retain, forget, fallback))
        return seen[-1] if min(seen[-1]) > 0 else (1.0, fallback)

    monkeypatch.setattr(munba, "bargain", watched)
    case.run(bargainer(case, 1), case.stream, partial(given_labels, case))
    check(case, partial(bargainer, case), partial(given_labels, case))
    if entry["flag"] != "defect":
        joint = case.arrays["weights"]
        np.testing.assert_allclose(seen[-len(joint) :], joint, rtol=1e-9)


def differ_by_the_guards(retain: Tensor, forget: Tensor, fallback: float) -> None:
    """Assert that our weights differ from the released ones by no more than the guards of 1e-8 explain."""
    ours, theirs = bargain(retain, forget, fallback), released(retain, forget, fallback)
    product, size = float(retain @ forget), float(retain @ retain)
    guard = 1e-8 / (abs(product) * ours[0]) + 1e-8 / (size**2 * float(forget @ forget) - size * product**2)
    np.testing.assert_allclose(ours, theirs, rtol=10 * guard / min(1, abs(product) / size) + 1e-9)


def sfron(case: Case, iterations: int) -> Method:
    numbers = case.numbers
    return SFRon(
        **{**shared(case), "clip": numbers["max_norm"]},
        epochs=1,
        iterations=iterations,
        every=numbers["forget_freq"],
        alpha=numbers["alpha"],
        easing=numbers["lambd"],
        threshold=numbers["th"],
        mask_batch_size=case.entry["batch_size"],
        hard_mask=False,
        blend=numbers["ema_beta"],
    )


@pytest.mark.parametrize("entry", cases("sfron"))
def test_sfron(entry: dict) -> None:
    case = Case(entry)
    for name, snapshot in (("forget", "fisher_forget"), ("retain", "fisher_retain")):
        found, utterances = over_batches(case.context(), name, entry["batch_size"], cross_entropy, torch.square)
        assert utterances == len(case.forget if name == "forget" else case.retain_used)
        expected = case.flat(snapshot)
        assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    method = sfron(case, 1)
    method.prepare(case.original, case.context())
    assert torch.equal(method.get_buffer("mask"), case.flat("mask").bool())
    # A step of the reference is one iteration.
    for prefix, iterations in (("step1", 1), ("final", case.numbers["n_iters"])):
        assert not case.misses(prefix, case.run(sfron(case, iterations), case.stream))
