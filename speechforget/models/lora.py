"""Which weights of a classifier a method may move: all, the head's, or low-rank updates that become part of the weights in the end."""

from __future__ import annotations

import torch
from torch import nn

from speechforget.errors import NotApplicable
from speechforget.seeding import seed_from

ATTENTION = (
    ("q_proj", "v_proj"),
    ("query", "value"),
)  # what the projections of queries and values are called in the libraries


def adapt(classifier: nn.Module, trainable: str, seed: int = 0) -> None:
    """Freezes what the method must not move, or puts low-rank updates in; the function that the classifier computes stays the same.

    seed: of what the updates start from. Raises NotApplicable where there is no encoder for such updates, or where it has them already.
    """
    if trainable != "lora":
        restrict(classifier, trainable)
        return
    encoder, name = getattr(classifier, "encoder", None), type(classifier).__name__
    modules = dict(encoder.named_modules()) if encoder is not None else {}
    if any("lora_" in module for module in modules):
        raise NotApplicable(
            "The original was trained by low-rank updates (model.tune=lora), and method.trainable=all moves these: use that, or head."
        )
    linear = {module.rsplit(".", 1)[-1] for module, kind in modules.items() if isinstance(kind, nn.Linear)}
    targets = next((kinds for kinds in ATTENTION if set(kinds) <= linear), None)
    if encoder is None or targets is None:
        raise NotApplicable(
            f"method.trainable=lora is for pretrained encoders with projections of queries and values, not {name}: use head or all."
        )
    from speechforget.models.encoders.base import LORA, insert_lora

    with torch.random.fork_rng(
        devices=[]
    ):  # one half of each update starts at random, the same in every process and after a resumption
        torch.manual_seed(seed_from(seed, "low-rank updates"))
        insert_lora(encoder, {**LORA, "targets": targets})


def settled(student: nn.Module, trainable: str) -> nn.Module:
    """The student with its low-rank updates, if the method put any in, added to the weights: the same architecture as the original."""
    if trainable == "lora":
        from peft.tuners.lora import LoraLayer

        for parent in list(student.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    child.merge()
                    setattr(parent, name, child.base_layer)
    return student


def restrict(model: nn.Module, trainable: str) -> nn.Module:
    """The model with only its head trainable, where that is asked for."""
    if trainable == "head":
        model.requires_grad_(False)
        for weight in model.get_submodule("head").parameters():
            weight.requires_grad_(True)
    return model
