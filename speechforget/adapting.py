"""Which weights of a classifier a method may move: all, the head's, or low-rank updates that become part of the weights in the end."""

from __future__ import annotations

from torch import nn

from speechforget.errors import NotApplicable
from speechforget.methods.switches import restrict

ATTENTION = (("q_proj", "v_proj"), ("query", "value"))  # what the projections of queries and values are called in the libraries


def adapt(classifier: nn.Module, trainable: str) -> None:
    """Freezes what the method must not move, or puts low-rank updates in; the function that the classifier computes stays the same.

    Raises NotApplicable where there is no transformer for such updates, or where the model has them already.
    """
    if trainable != "lora":
        restrict(classifier, trainable)
        return
    from speechforget.models.transformer import LORA, insert_lora

    encoder = getattr(classifier, "encoder", None)
    names = {name.rsplit(".", 1)[-1] for name, module in encoder.named_modules() if isinstance(module, nn.Linear)} if encoder is not None else set()
    targets = next((kinds for kinds in ATTENTION if set(kinds) <= names), None)
    if encoder is None or targets is None:
        raise NotApplicable(
            f"method.trainable=lora is for transformers, and {type(classifier).__name__} has no attention to update: use head or all."
        )
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
