"""The machine of recorded seconds, without which they cannot be compared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speechforget.distributed import collectives
from speechforget.training.cost_meter import Cost
from speechforget.training.machine import processor


def test_a_cost_says_on_what_kind_of_machine_it_was_spent() -> None:
    cost = Cost()
    model = cost.watch(nn.Linear(2, 2))
    with cost:
        model(torch.zeros(3, 2))
    record = cost.record()
    assert record["machine"] == {
        "device": "cpu",
        "host": processor(),
        "threads": torch.get_num_threads(),
        "ranks": collectives.world(),
    }
    assert record["forward_backward"] == 3 and "cores" in processor()


@pytest.mark.parametrize("other", [{"threads": 99}, {"host": "another"}, None])
@pytest.mark.parametrize("how", ["resumed", "shared"])
def test_seconds_of_several_kinds_of_machine_are_of_none(how: str, other: dict | None) -> None:
    here = Cost().state_dict()
    for machine, known in ((here["machine"], True), (None if other is None else {**here["machine"], **other}, False)):
        cost, spent = Cost(), {**here, "machine": machine}
        if how == "resumed":
            cost.load_state_dict(spent)
        else:
            cost.share(spent, reused=True)
        assert (cost.record()["machine"] is not None) == known
    found = Cost()
    found.share({**here, "machine": None}, reused=False)  # it was spent here, and is in the seconds already
    assert found.record()["machine"] == here["machine"]
