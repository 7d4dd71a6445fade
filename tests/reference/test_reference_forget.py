"""Compare DELETE, boundary shrink, JiT and UNSIR with the authors' code."""

from __future__ import annotations

import re
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from support.reference_cases import Case, Network, cases, check
from torch import Tensor

from speechforget.batch import Batch
from speechforget.methods import boundary_shrink, jit, unsir
from speechforget.methods.base.method import Context, Method
from speechforget.methods.boundary_shrink import BoundaryShrink, beyond
from speechforget.methods.delete import Delete
from speechforget.methods.jit import JustInTime
from speechforget.methods.unsir import Unsir


@pytest.fixture
def plain_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take features in their own units, as the reference does."""

    def one(context: Context, name: str, batch_size: int) -> Tensor:
        return torch.ones((), dtype=torch.float64)

    modules: list[ModuleType] = [boundary_shrink, jit, unsir]
    for module in modules:
        monkeypatch.setattr(module, "deviation", one)


def delete(case: Case, epochs: int) -> Method:
    mode = "frozen" if case.numbers["disable_bn"] else case.mode
    return Delete(**case.common(), epochs=epochs, batch_size=case.entry["batch_size"], batch_norm=mode)


@pytest.mark.parametrize("entry", cases("delete"))
def test_delete(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(delete, case))


@pytest.mark.parametrize("entry", cases("delete")[:1])
def test_a_case_that_is_missed_says_all_that_is_missed(entry: dict) -> None:
    case = Case({**entry, "optimiser": {**entry["optimiser"], "lr": 2 * entry["optimiser"]["lr"]}})
    with pytest.raises(AssertionError) as caught:
        check(case, partial(delete, case))
    names = [name for name, _ in case.original.named_parameters()]
    assert all(f"{prefix}.{name}: " in str(caught.value) for prefix in ("step1", "epoch1", "final") for name in names)


def student_mode(case: Case) -> str:
    found = re.search(r"student in (train|eval) mode", case.entry["mode"])
    assert found
    return {"train": "train", "eval": "frozen"}[found[1]]


def shrink(case: Case, epochs: int, wrong_only: bool = False) -> BoundaryShrink:
    numbers = {"bound": case.numbers["bound"], "wrong_only": wrong_only, "batch_norm": student_mode(case)}
    return BoundaryShrink(**case.common(), epochs=epochs, batch_size=case.entry["batch_size"], **numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("entry", cases("boundaryshrink"))
def test_boundary_shrink(entry: dict, plain_units: None) -> None:
    case = Case(entry)
    check(case, partial(shrink, case))
    method = shrink(case, 1)
    method.prepare(Network(case.state("before")), case.context())
    (batch,) = case.batches(case.forget, len(case.forget))
    moved = beyond(case.original, batch, torch.tensor(case.numbers["bound"], dtype=torch.float64))
    labels = method.labels(batch.rows).numpy()
    if entry["flag"] == "defect":
        assert case.far("x_adv", moved)
        return
    assert not case.far("x_adv", moved)
    assert np.array_equal(labels, case.arrays["adv_label"])
    wrong = shrink(case, 1, wrong_only=True)
    wrong.prepare(Network(case.state("before")), case.context())
    left = case.arrays["adv_label"] != batch.labels.numpy()  # the step left the true class: then nothing differs
    assert np.array_equal(wrong.labels(batch.rows).numpy()[left], case.arrays["adv_label"][left])


def just_in_time(case: Case, epochs: int) -> Method:
    numbers = {"draws": case.numbers["n_samples"], "sigma": case.numbers["sigma"], "clamp": bool(case.numbers["clamp"])}
    common = {"batch_size": case.entry["batch_size"], "batch_norm": case.mode, "reduction": "sum"}
    return JustInTime(**case.common(), epochs=epochs, **common, **numbers)


def given_noise(case: Case, method: Method) -> None:
    """Replace our draws by the case's."""
    position = {row: index for index, row in enumerate(case.forget.tolist())}
    given = torch.from_numpy(case.arrays["noise"])

    def noise(batch: Batch, features: Tensor, mask: Tensor, epoch: int, number: int) -> Tensor:
        return given[number, [position[row] for row in batch.rows.tolist()]]

    method.noise = noise  # type: ignore[assignment]


@pytest.mark.parametrize("entry", cases("jit"))
def test_jit(entry: dict, plain_units: None) -> None:
    case = Case(entry)
    check(case, partial(just_in_time, case), partial(given_noise, case), epochs="passes")


def impair_and_repair(case: Case, repair_epochs: int) -> Unsir:
    rates = {part: float(re.search(r"lr ([\d.e-]+)", said)[1]) for part, said in case.entry["optimiser"].items()}  # type: ignore[index]
    penalty = re.search(r"([\d.e-]+)\*mean", case.numbers["noise_loss"])
    assert penalty
    method = Unsir(
        rates["impair"],
        rates["repair"],
        case.entry["batch_size"],
        case.numbers["noise_batch"],
        {"name": "adam"},
        case.numbers["noise_steps"],
        rates["noise"],
        float(penalty[1]),
        repair_epochs=repair_epochs,
        order="sequential",
        copies=case.numbers["noise_copies"],
        impair_batch_norm="train",
        repair_batch_norm="train",
    )
    given = torch.from_numpy(case.arrays["noise0"])
    method.start = lambda batch, features, mask, label: given  # type: ignore[method-assign]
    return method


@pytest.mark.parametrize("entry", cases("unsir"))
def test_unsir(entry: dict, plain_units: None) -> None:
    case = Case(entry)
    check(case, partial(impair_and_repair, case))
    method = impair_and_repair(case, 0)
    impaired = case.run(method, case.stream)
    assert not case.far("noise", method.noise)
    assert bool(case.misses("impair", impaired)) == (entry["flag"] == "defect")
