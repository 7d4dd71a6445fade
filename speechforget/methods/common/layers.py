"""Find a classifier's last layers and the kernels of its convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from speechforget.errors import NotApplicable, UserError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def own_weights(layer: nn.Module) -> list[nn.Parameter]:
    """List a layer's weights, without those of normalisations."""
    norms = {id(weight) for module in layer.modules() if isinstance(module, NORMS) for weight in module.parameters()}
    return [weight for weight in layer.parameters() if id(weight) not in norms]


def last_layers(model: nn.Module, count: int) -> list[nn.Module]:
    """Return the end of `model.layers()` that contains `count` layers with weights.

    Entries that only normalise are included and not counted.
    Raises UserError if the model does not have that many layers.
    """
    layers: list[nn.Module] = model.layers()  # type: ignore[operator]
    numbers = [number for number, layer in enumerate(layers) if own_weights(layer)]
    if not 1 <= count <= len(numbers):
        raise UserError(
            f"The model has {len(numbers)} layers with weights, so k must be from 1 to {len(numbers)}, not {count}."
        )
    return layers[numbers[-count] :]


def freeze_all_but(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Freeze every weight outside the layers; weights that are already frozen stay frozen.

    Raises UserError if no trainable weight remains.
    """
    kept = {id(weight) for layer in layers for weight in layer.parameters()}
    for weight in model.parameters():
        if id(weight) not in kept:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError("Every weight of the last k layers was frozen in training, so none can change: raise k.")


def kernels(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable weights of convolutions and linear layers, without biases, by the layer's name."""
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        # A weight that is computed from others is not a parameter, so no optimiser changes it.
        weight = (
            dict(module.named_parameters(recurse=False)).get("weight")
            if isinstance(module, (_ConvNd, nn.Linear))
            else None
        )
        if weight is not None and weight.requires_grad:
            found[name] = weight
    return found


def refuse_low_rank(trainable: str, method: str) -> None:
    """Raise NotApplicable if only low-rank updates are trainable.

    They start at zero, so a reset or a change of sign has no effect on them.
    """
    if trainable == "lora":
        raise NotApplicable(
            f"{method} edits weights while low-rank updates are still zero: use method.trainable=all or head."
        )
