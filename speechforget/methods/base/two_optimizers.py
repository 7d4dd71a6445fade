"""Keep one optimiser for forget steps and another for retain steps, so that neither inherits the other's momentum.

Zhong et al., "DualOptim", NeurIPS 2025, with code in CityU-MLO/DualOptim. Difference: there, forget steps use Adam and
retain steps SGD. Here, both optimisers have the kind and the numbers of `method.optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from speechforget.methods.base.method import Half, Pass


class TwoOptimizers(torch.optim.Optimizer):
    """Step one of two optimisers over the same weights; `use` says which. Its state holds both."""

    def __init__(self, forget: torch.optim.Optimizer, retain: torch.optim.Optimizer) -> None:
        super().__init__([{"params": group["params"]} for group in retain.param_groups], {})
        self.each: dict[Half, torch.optim.Optimizer] = {"forget": forget, "retain": retain}
        self.use("retain")

    def use(self, half: Half) -> None:
        """Choose the optimiser of the next step; `param_groups` and `state` are its own."""
        self.now = self.each[half]
        self.param_groups, self.state = self.now.param_groups, self.now.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Compute the loss, which may choose the optimiser, then step that."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.now.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {half: one.state_dict() for half, one in self.each.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the states of both."""
        for half, one in self.each.items():
            one.load_state_dict(state_dict[half])
        self.use("retain")


def clear(optimizer: torch.optim.Optimizer, current: Pass) -> None:
    """Clear the state of an optimiser; of two, that of the steps in a pass."""
    if not isinstance(optimizer, TwoOptimizers):
        optimizer.state.clear()
        return
    for half in current.halves:
        optimizer.use(half)
        optimizer.state.clear()
