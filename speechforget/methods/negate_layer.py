"""NoT: turn the sign of a layer's weights round, which breaks what all later layers rely on, and fine-tune on retain.

Khalil, Brunswic, Lamghari, Li, Beitollahi & Chen, "NoT: federated unlearning via weight negation", CVPR 2025.

    theta_o[L] <- -theta_o[L];   min_theta  E_{D_r} l(x, y; theta)

| symbol | argument                                                                                                            |
|--------|---------------------------------------------------------------------------------------------------------------------|
| L      | `layers`: names of convolutions or linear layers, or of parts that hold some; empty: the first one that can move    |
| l      | cross-entropy in nats, mean over the batch                                                                          |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`                                                           |

Weights and biases of L are negated, so that its output z becomes -z. Where a batch-norm takes that output itself, `negate_mean` negates its
running mean m too: (-z - -m) / s = -(z - m) / s, the exact opposite of what it was, while with the old mean it would be -(z + m) / s, whose scale
belongs to no data at all. Batch statistics, which training sees, agree with the former. Which batch-norm that is, if any, is seen in one pass over a
single utterance, in which "first" is also decided: by execution, not by definition.
There is no public code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from speechforget.batch import Batch
from speechforget.errors import UserError, nearest
from speechforget.methods.base.epochs import Epochs
from speechforget.methods.base.method import Context
from speechforget.methods.common.layers import kernels, refuse_low_rank


class NegateLayer(Epochs):
    """A layer turned round, then epochs over retain."""

    needs = frozenset({"retain"})

    def __init__(self, layers: Sequence[str] = (), negate_mean: bool = True, **epochs: Any) -> None:
        super().__init__(**epochs)
        self.layers, self.negate_mean = tuple(layers), negate_mean

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Negates the layers, and the running means that their outputs meet."""
        refuse_low_rank(self.trainable, "Negation")
        norms = executed(student, next(iter(context.batches("retain", 1))))
        for name in chosen(self.layers, list(norms)):
            negate(student.get_submodule(name), norms[name] if self.negate_mean else None)


@torch.no_grad()
def negate(layer: nn.Module, norm: _BatchNorm | None) -> None:
    """Turns the sign of the layer's weight and bias round, and of the running mean of the batch-norm that takes its output."""
    for weight in layer.parameters(recurse=False):
        weight.neg_()
    if norm is not None and norm.running_mean is not None:
        norm.running_mean.neg_()


def chosen(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """The layers out of `names` that are wanted, or lie in a part that is; the first where nothing is. Raises UserError for what is not there."""
    if not wanted:
        return list(names[:1])
    for part in wanted:
        if not any(inside(name, part) for name in names):
            raise UserError(f"There is no convolution or linear layer '{part}' that can move: {nearest(part, names)}")
    return [name for name in names if any(inside(name, part) for part in wanted)]


def inside(name: str, part: str) -> bool:
    """Whether the module `name` is `part`, or in it."""
    return name == part or name.startswith(f"{part}.")


@torch.no_grad()
def executed(model: nn.Module, batch: Batch) -> dict[str, _BatchNorm | None]:
    """The convolutions and linear layers that can move, by name in order of execution, each with the batch-norm that takes its very output."""
    outputs: dict[str, Tensor] = {}
    norms: dict[str, _BatchNorm | None] = {}

    def speak(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[name] = output
            norms.setdefault(name, None)

        return hook

    def listen(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        for name, output in outputs.items():
            if arguments[0] is output and isinstance(norm, _BatchNorm):
                norms[name] = norm

    hooks = [model.get_submodule(name).register_forward_hook(speak(name)) for name in kernels(model)]
    hooks += [module.register_forward_pre_hook(listen) for module in model.modules() if isinstance(module, _BatchNorm)]
    model.eval()(*batch.inputs)
    for hook in hooks:
        hook.remove()
    return norms
