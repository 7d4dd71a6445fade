"""Negate a layer's weights, which breaks the input of all later layers, then fine-tune on retain.

NoT: Khalil, Brunswic, Lamghari, Li, Beitollahi & Chen, "NoT: federated unlearning via weight negation", CVPR 2025.

    theta_o[L] <- -theta_o[L];   min_theta  E_{D_r} l(x, y; theta)

| symbol | meaning                                                                                                     |
|--------|-------------------------------------------------------------------------------------------------------------|
| L      | `layers`: names of convolutions or linear layers, or of parts that contain some; empty: the first trainable |
|        | one                                                                                                         |
| l      | cross-entropy in nats, mean over the batch                                                                  |
| rate   | `learning_rate`, `schedule`, `minimum`: see `epochs.rate`                                                   |

Weights and biases of L are negated, so its output z becomes -z. If a batch-norm takes this output directly,
`negate_mean` negates its running mean m too. Its output is then (-z - -m) / s = -(z - m) / s, the exact opposite of
before. With the old mean it would be -(z + m) / s, which matches no data. Batch statistics, as used in training, give
the former.
One pass over a single utterance finds that batch-norm, and the first layer in order of execution, not of definition.
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
    """Negate a layer, then train on retain for some epochs."""

    needs = frozenset({"retain"})

    def __init__(self, layers: Sequence[str] = (), negate_mean: bool = True, **epochs: Any) -> None:
        super().__init__(**epochs)
        self.layers, self.negate_mean = tuple(layers), negate_mean

    def prepare(self, student: nn.Module, context: Context) -> None:
        """Negate the layers, and the running means of the batch-norms after them."""
        refuse_low_rank(self.trainable, "Negation")
        norms = executed(student, next(iter(context.batches("retain", 1))))
        for name in chosen(self.layers, list(norms)):
            negate(student.get_submodule(name), norms[name] if self.negate_mean else None)


@torch.no_grad()
def negate(layer: nn.Module, norm: _BatchNorm | None) -> None:
    """Negate the layer's weight and bias, and the running mean of the batch-norm that takes its output."""
    for weight in layer.parameters(recurse=False):
        weight.neg_()
    if norm is not None and norm.running_mean is not None:
        norm.running_mean.neg_()


def chosen(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """Select the layers out of `names` that are wanted or are inside a wanted part; the first if nothing is wanted.

    Raises UserError for a part that does not exist.
    """
    if not wanted:
        return list(names[:1])
    for part in wanted:
        if not any(inside(name, part) for name in names):
            raise UserError(f"There is no trainable convolution or linear layer '{part}': {nearest(part, names)}")
    return [name for name in names if any(inside(name, part) for part in wanted)]


def inside(name: str, part: str) -> bool:
    """Tell whether the module `name` is `part` or inside it."""
    return name == part or name.startswith(f"{part}.")


@torch.no_grad()
def executed(model: nn.Module, batch: Batch) -> dict[str, _BatchNorm | None]:
    """Map the trainable convolutions and linear layers, in order of execution, to their batch-norms.

    A layer's batch-norm is the one that takes exactly its output; None if there is none.
    """
    outputs: dict[str, Tensor] = {}
    norms: dict[str, _BatchNorm | None] = {}

    def record_output(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[name] = output
            norms.setdefault(name, None)

        return hook

    def find_source(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        for name, output in outputs.items():
            if arguments[0] is output and isinstance(norm, _BatchNorm):
                norms[name] = norm

    hooks = [model.get_submodule(name).register_forward_hook(record_output(name)) for name in kernels(model)]
    hooks += [
        module.register_forward_pre_hook(find_source) for module in model.modules() if isinstance(module, _BatchNorm)
    ]
    model.eval()(*batch.inputs)
    for hook in hooks:
        hook.remove()
    return norms
