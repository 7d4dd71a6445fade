"""What is not finite ends a stage, with a sentence that says which stage, when, and what to lower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from speechforget.errors import Diverged

FULL = ("32-true", "64-true")  # the precisions that are no cause


@dataclass(frozen=True)
class Watch:
    """Whose numbers are looked at, as the subject of a sentence, and what a user can do where they are not finite, as a sentence."""

    who: str = "The model"
    advice: str = "Lower the learning rate."

    @contextmanager
    def watched(self, when: str) -> Iterator[None]:
        """Makes a Diverged of what the checks below raise, and of an equation that cannot be solved. when: as in 'in epoch 3 of 6'."""
        try:
            yield
        except (FloatingPointError, torch.linalg.LinAlgError) as error:
            raise Diverged(f"{self.who} diverged {when}: {error}. {self.advice}") from error


def check_numbers(numbers: Mapping[str, float]) -> None:
    """Raises FloatingPointError that names a number that is infinite or none."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}")


@torch.no_grad()
def check_weights(model: nn.Module) -> None:
    """Raises FloatingPointError that names a parameter or saved buffer that holds a number that is not finite."""
    named = {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    if not named:
        return
    finite = torch.stack([value.isfinite().all() for value in named.values()]).tolist()  # one wait for the device
    broken = [name for name, sound in zip(named, finite, strict=True) if not sound]
    if broken:
        more = f" and of {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise FloatingPointError(f"numbers of {broken[0]}{more} are not finite")


def check_outputs(wrong: int, count: int, what: str = "logits") -> None:
    """Raises FloatingPointError where the model's outputs for `wrong` of `count` utterances are not finite."""
    if wrong:
        raise FloatingPointError(f"its {what} for {wrong} of {count} utterances are not finite")
