"""What methods mean by layers: the last ones of a classifier, and the kernels of its convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from speechforget.errors import NotApplicable, UserError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def own_weights(layer: nn.Module) -> list[nn.Parameter]:
    """A layer's weights without those of normalisations."""
    norms = {id(weight) for module in layer.modules() if isinstance(module, NORMS) for weight in module.parameters()}
    return [weight for weight in layer.parameters() if id(weight) not in norms]


def last_layers(model: nn.Module, count: int) -> list[nn.Module]:
    """The end of `model.layers()` that holds `count` layers; entries that only normalise come along and are not counted.

    Raises UserError for a count that is not in the model.
    """
    layers: list[nn.Module] = model.layers()  # type: ignore[operator]
    numbers = [number for number, layer in enumerate(layers) if own_weights(layer)]
    if not 1 <= count <= len(numbers):
        raise UserError(
            f"The model has {len(numbers)} layers with weights, so k must be from 1 to {len(numbers)}, not {count}."
        )
    return layers[numbers[-count] :]


def freeze_all_but(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Freezes what is not in the layers; what is frozen already stays so. Raises UserError where nothing is left to move."""
    kept = {id(weight) for layer in layers for weight in layer.parameters()}
    for weight in model.parameters():
        if id(weight) not in kept:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError(
            "Every weight of the last k layers was frozen in training, so nothing is left to move: raise k."
        )


def kernels(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights, without biases, of convolutions and linear layers, by the layer's name; what is frozen is left out."""
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        # a weight that is computed from others is none of a layer's parameters, and nothing that an optimiser moves
        weight = (
            dict(module.named_parameters(recurse=False)).get("weight")
            if isinstance(module, (_ConvNd, nn.Linear))
            else None
        )
        if weight is not None and weight.requires_grad:
            found[name] = weight
    return found


def refuse_low_rank(trainable: str, method: str) -> None:
    """Raises NotApplicable where only low-rank updates can move: they start at zero, so neither a new start nor a change of sign means anything."""
    if trainable == "lora":
        raise NotApplicable(
            f"{method} edits weights, and low-rank updates are still zero when it does: use method.trainable=all or head."
        )
