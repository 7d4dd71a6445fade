"""Compare fine-tuning, gradient ascent, random labels, SalUn, SCRUB and bad teaching with the authors' code."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from support.reference_cases import Case, Network, cases, check

from speechforget.methods.bad_teaching import BadTeaching
from speechforget.methods.base.method import Context, Method
from speechforget.methods.finetune import Finetune
from speechforget.methods.gradient_ascent import GradientAscent
from speechforget.methods.random_label import RandomLabel
from speechforget.methods.salun import SalUn, saliency, top
from speechforget.methods.scrub import Scrub


def plain(case: Case, epochs: int) -> Method:
    kind = Finetune if case.name.endswith("ft") else GradientAscent
    return kind(**case.common(), epochs=epochs, batch_size=case.entry["batch_size"], batch_norm=case.mode)


def bad_teaching(case: Case, epochs: int) -> Method:
    temperature = case.numbers["temperature"]
    return BadTeaching(
        **case.common(),
        epochs=epochs,
        batch_size=case.entry["batch_size"],
        temperature=temperature,
        batch_norm=case.mode,
    )


def labelling(case: Case, epochs: int) -> Method:
    order = "joint" if "order" in case.arrays else "sequential"
    modes = {"forget_batch_norm": case.mode, "retain_batch_norm": case.mode}
    size = case.entry["batch_size"]
    if case.name == "salun":
        mask = {"mask_share": case.numbers["mask_fraction"], "mask_batch_size": size}
        return SalUn(**mask, **case.common(), epochs=epochs, batch_size=size, order=order, **modes)
    return RandomLabel(**case.common(), epochs=epochs, batch_size=size, order=order, **modes)


def given_labels(case: Case, method: Method) -> None:
    """Replace our labels and mask by the case's."""
    relabel = getattr(method, "relabel", method)
    relabel.draw = case.draw
    if isinstance(method, SalUn):
        method.mask.copy_(case.flat("mask").bool())


def scrub(case: Case, epochs: int, **changes: object) -> Method:
    numbers, size = case.numbers, case.entry["batch_size"]
    chosen = {
        "forget_epochs": numbers["msteps"] if isinstance(numbers["msteps"], int) else epochs,
        "forget_batch_size": size,
        "retain_batch_size": size,
        "decay_after": numbers.get("lr_decay_epochs", ()),
        "decay": numbers.get("lr_decay_rate", 1.0),
        "forget_batch_norm": case.mode,
        "retain_batch_norm": case.mode,
        **{key: numbers[key] for key in ("alpha", "gamma", "temperature")},
        **changes,
    }
    return Scrub(**case.common(), epochs=epochs, **chosen)


@pytest.mark.parametrize("entry", cases("ft", "ga", "unsluft", "unslung"))
def test_finetune_and_gradient_ascent(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(plain, case))


@pytest.mark.parametrize("entry", cases("badteaching"))
def test_bad_teaching(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(bad_teaching, case))


@pytest.mark.parametrize("entry", cases("randomlabel", "salun"))
def test_random_label_and_salun(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(labelling, case), partial(given_labels, case))


@pytest.mark.parametrize("entry", cases("scrub", "unsluscrub"))
def test_scrub(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(scrub, case))


@pytest.mark.parametrize("entry", cases("scrub"))
def test_scrub_epoch_by_epoch_and_rewound(entry: dict) -> None:
    case = Case(entry)
    epochs = case.numbers["epochs"]
    for done in range(1, epochs):
        assert not case.misses(f"after{done}", case.run(scrub(case, done), case.stream))
    assert not case.misses("stepmin", case.run(scrub(case, 1, forget_epochs=0), case.first_step))
    rates = [current.rate(0) for current in scrub(case, epochs).passes() if current.stream == "retain"]
    np.testing.assert_allclose(rates, case.arrays["lr"], rtol=1e-12)

    errors = []
    for done in range(epochs + 1):
        student = Network(case.run(scrub(case, done), case.stream)).eval()
        errors.append(1 - case.evaluate(student)("forget"))
    np.testing.assert_allclose(errors, case.arrays["forget_error"], atol=1e-12)
    np.testing.assert_allclose(1 - case.evaluate(student)("validation"), case.arrays["reference_error"], atol=1e-12)
    chosen = int(case.arrays["rewind_index"])
    prefix = "before" if chosen == 0 else "final" if chosen == epochs else f"after{chosen}"
    assert not case.misses(prefix, case.run(scrub(case, epochs, rewind=True), case.stream))


@pytest.mark.parametrize("entry", cases("salunmask"))
def test_salun_mask(entry: dict) -> None:
    case = Case(entry)
    context = Context(
        case.original, lambda: case.original, lambda name, size: case.batches(case.forget, size), 5, (), 0
    )
    scores = saliency(context, entry["batch_size"])
    expected = case.flat("saliency")
    allowed = entry["tolerance"]["atol"] + entry["tolerance"]["rtol"]["final"] * float(expected.max())
    assert float((scores - expected).abs().max()) <= allowed
    assert not case.misses("final", case.original.state_dict())
    for fraction, gap in zip(sorted(case.numbers["fractions"]), case.arrays["cut_gap"], strict=True):
        given, ours = case.flat(f"mask_{fraction}").bool(), top(scores, fraction)
        assert int(ours.sum()) == int(fraction * len(scores)) == int(given.sum())
        if gap > 2 * allowed:
            assert torch.equal(ours, given)
        else:  # a tie at the cut: any choice among the tied is valid
            cut = float(expected[given].min())
            assert bool((ours == given)[(expected - cut).abs() > 2 * allowed].all())
