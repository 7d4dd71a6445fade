"""Choose which weights of a classifier a method trains: all, the head's, or low-rank updates (LoRA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechforget.errors import NotApplicable
from speechforget.seeding import seed_from

ATTENTION = (("q_proj", "v_proj"), ("query", "value"))  # the libraries' names of the projections of queries and values


def adapt(classifier: nn.Module, trainable: str, seed: int = 0) -> None:
    """Freeze the weights that the method must not train, or insert low-rank updates; the outputs stay the same.

    seed: of the initial updates. Raises NotApplicable where the classifier has no encoder for updates, or has updates.
    """
    if trainable != "lora":
        restrict(classifier, trainable)
        return
    encoder, name = getattr(classifier, "encoder", None), type(classifier).__name__
    modules = dict(encoder.named_modules()) if encoder is not None else {}
    if any("lora_" in module for module in modules):
        raise NotApplicable(
            "The original was trained by low-rank updates (model.tune=lora), and method.trainable=all trains these: "
            "use that, or head."
        )
    linear = {module.rsplit(".", 1)[-1] for module, kind in modules.items() if isinstance(kind, nn.Linear)}
    targets = next((kinds for kinds in ATTENTION if set(kinds) <= linear), None)
    if encoder is None or targets is None:
        raise NotApplicable(
            "method.trainable=lora is for pretrained encoders with projections of queries and values, "
            f"not {name}: use head or all."
        )
    from speechforget.models.encoders.base import LORA, insert_lora

    # One half of each update starts at random: the same in every process, and after a resumption.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(seed, "low-rank updates"))
        insert_lora(encoder, {**LORA, "targets": targets})


def low_rank(student: nn.Module) -> dict[str, Tensor]:
    """Return the student's low-rank updates: `<weight>.up` (out, rank) times `<weight>.down` (rank, in) is added."""
    from peft.tuners.lora import LoraLayer

    found: dict[str, Tensor] = {}
    layers: dict[str, Any] = {path: part for path, part in student.named_modules() if isinstance(part, LoraLayer)}
    for path, layer in layers.items():
        (adapter,) = layer.active_adapters
        up, down = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
        found[f"{path}.weight.up"] = (up * layer.scaling[adapter]).detach().cpu().contiguous()
        found[f"{path}.weight.down"] = down.detach().cpu().contiguous()
    return found


def settled(student: nn.Module, trainable: str) -> nn.Module:
    """Merge the student's low-rank updates, if any, into the weights: it gets the original's architecture."""
    if trainable == "lora":
        from peft.tuners.lora import LoraLayer

        for parent in list(student.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    child.merge()
                    setattr(parent, name, child.base_layer)
    return student


def restrict(model: nn.Module, trainable: str) -> nn.Module:
    """Freeze all weights but the head's where `trainable` is `head`; give the model."""
    if trainable == "head":
        model.requires_grad_(False)
        for weight in model.get_submodule("head").parameters():
            weight.requires_grad_(True)
    return model
