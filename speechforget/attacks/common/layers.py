"""Read all layers of a classifier in one forward pass, each averaged to one vector per utterance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechforget.attacks.base import Rows, Subject

Features = NDArray[np.float64]

EMBEDDING = "embedding"  # the input of the head
WIDTHS = ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim")


def layer_features(subject: Subject, rows: Rows) -> dict[str, Features]:
    """Return the outputs of `Classifier.layers`, the head last, and before it the embedding: (rows, width) each.

    Outputs are averaged over all axes but the channels, padding included, since every batch has one length. A layer
    that gives no vector per utterance, or that is not called, is left out. Raises FloatingPointError if an output is
    not finite.
    """
    names = {module: name for name, module in subject.classifier.named_modules()}
    layers = {names[layer].replace(".", "_"): layer for layer in subject.classifier.layers()}  # type: ignore[operator]
    now: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda module, _, output, name=name: now.update(_vectors(name, module, output)))
        for name, layer in layers.items()
    ]
    found: dict[str, list[np.ndarray]] = {}
    try:
        with torch.inference_mode():
            for batch, features in subject.heard(rows):
                now.clear()
                embedding = subject.classifier(*batch.inputs, features=features).embedding
                *before, last = layers
                for name in (*before, EMBEDDING, last):
                    vectors = embedding if name == EMBEDDING else now.get(name)
                    if vectors is not None and len(vectors) == len(batch.rows):
                        found.setdefault(name, []).append(vectors.double().cpu().numpy())
    finally:
        for handle in handles:
            handle.remove()
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    for name, values in joined.items():
        if not np.isfinite(values).all():
            raise FloatingPointError(f"its outputs of the layer {name} are not finite")
    return joined


def _vectors(name: str, layer: nn.Module, output: Any) -> dict[str, Tensor]:
    """Average the output of a layer over all axes but batch and channels."""
    tensor = next((part for part in output if isinstance(part, Tensor)), None) if isinstance(output, tuple) else output
    if not isinstance(tensor, Tensor) or tensor.dim() < 2:
        return {}
    channels = _channels(layer, tensor)
    others = [axis for axis in range(1, tensor.dim()) if axis != channels]
    return {name: tensor.float().mean(others) if others else tensor.float()}


def _channels(layer: nn.Module, output: Tensor) -> int:
    """Return the axis of the channels: the one that is as wide as the last module of the layer that has weights.

    If several axes are, or none is, it is the first one after convolutions and the last one otherwise.
    """
    width, convolution = None, False
    for module in layer.modules():
        shape = getattr(module, "normalized_shape", None)
        found = shape[-1] if shape else next((getattr(module, name) for name in WIDTHS if hasattr(module, name)), None)
        if found is not None:
            width, convolution = found, not isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding))
    axes = range(1, output.dim())
    fitting = [axis for axis in axes if output.shape[axis] == width] or axes
    return fitting[0] if convolution else fitting[-1]
