"""Compare l1-sparse, CF-k and EU-k with the authors' code."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from support.reference_cases import Case, Network, cases, check

from speechforget.methods.base.method import Method
from speechforget.methods.cf_k import CFk
from speechforget.methods.eu_k import EUk
from speechforget.methods.l1_sparse import L1Sparse


def l1_sparse(case: Case, epochs: int) -> Method:
    # A run of one epoch has the penalty in that epoch, whatever the whole run does at its end.
    without = case.numbers["no_l1_epochs"] if epochs == case.numbers["epochs"] else 0
    size = case.entry["batch_size"]
    return L1Sparse(
        **case.common(),
        epochs=epochs,
        batch_size=size,
        gamma=case.numbers["gamma"],
        epochs_without=without,
        batch_norm=case.mode,
    )


def schedule(case: Case) -> dict[str, Any]:
    """Return the schedule as our methods take it; the entry describes it in words."""
    said = case.entry["optimiser"].get("schedule")
    if said is None:
        return {}
    assert "warm restarts, first period 1 epoch, doubled each time" in said
    minimum = next(
        float(word.rstrip(","))
        for before, word in zip(said.split(), said.split()[1:], strict=False)
        if before == "minimum"
    )
    return {"schedule": "restarts", "minimum": minimum}


def last_k(case: Case, epochs: int) -> Method:
    kind = EUk if case.name == "euk" else CFk
    modes = {"batch_norm": case.mode, "frozen_batch_norm": case.mode}
    return kind(
        **case.common(),
        **schedule(case),
        **modes,
        k=case.numbers["k"],
        epochs=epochs,
        batch_size=case.entry["batch_size"],
    )


@pytest.mark.parametrize("entry", cases("l1sparse"))
def test_l1_sparse(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(l1_sparse, case))


@pytest.mark.parametrize("entry", cases("cfk", "euk", "unslucfk"))
def test_cf_k_and_eu_k_train_and_reset_the_same_layers(entry: dict) -> None:
    case = Case(entry)
    check(case, partial(last_k, case))
    if case.name == "unslucfk":
        return
    student = Network(case.state("before"))
    last_k(case, 1).prepare(student, case.context())
    assert [name for name, weight in student.named_parameters() if weight.requires_grad] == case.arrays[
        "trainable"
    ].tolist()
    start = "reinit" if case.name == "euk" else "before"
    for name, value in case.state(start).items():
        np.testing.assert_array_equal(student.state_dict()[name], value)
