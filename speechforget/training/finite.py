"""End a stage on numbers that are not finite, with a sentence that says which stage, when, and what to lower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from speechforget.errors import Diverged

FULL = ("32-true", "64-true")  # precisions that do not cause it


@dataclass(frozen=True)
class Watch:
    """Words for errors. who: the subject of the sentence. advice: a sentence that says what the user can do."""

    who: str = "The model"
    advice: str = "Lower the learning rate."

    @contextmanager
    def watched(self, when: str) -> Iterator[None]:
        """Turn errors of the checks below, and of linear algebra, into Diverged. when: such as 'in epoch 3 of 6'."""
        try:
            yield
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            raise Diverged(f"{self.who} diverged {when}: {error}. {self.advice}") from error


def check_numbers(numbers: Mapping[str, float]) -> None:
    """Raise a FloatingPointError that names the first number that is not finite."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}")


@torch.no_grad()
def check_weights(model: nn.Module) -> None:
    """Raise a FloatingPointError that names the first parameter or saved buffer that is not finite."""
    named = {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    if not named:
        return
    # Stacked, so that the device is synchronised only once.
    finite = torch.stack([value.isfinite().all() for value in named.values()]).tolist()
    broken = [name for name, sound in zip(named, finite, strict=True) if not sound]
    if broken:
        more = f" and of {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise FloatingPointError(f"numbers of {broken[0]}{more} are not finite")


def check_outputs(wrong: int, count: int, what: str = "logits") -> None:
    """Raise a FloatingPointError if outputs of the model are not finite for `wrong` > 0 of `count` utterances."""
    if wrong:
        raise FloatingPointError(f"its {what} for {wrong} of {count} utterances are not finite")
