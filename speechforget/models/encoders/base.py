"""Classifiers on a pretrained encoder: which layers feed the head, and which weights are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from speechforget.distributed.dropout import as_before
from speechforget.errors import UserError, nearest
from speechforget.models.classifier import Classifier
from speechforget.models.encoders.huggingface import architecture_of, build_library_model, encoder_name, package

TUNES = ("whole", "frozen", "lora")
LAYERS = ("last", "weighted")
HEADS = ("new", "keep")
LORA = {"rank": 8, "alpha": 16, "targets": ("q_proj", "v_proj")}
SPREAD = 0.02  # standard deviation of a new head's weights: `initializer_range` of all these models


class Choices(NamedTuple):
    """Options of all models on an encoder.

    tune: `whole`; `frozen`: only the head and the weights of the layers learn; `lora`: these and low-rank updates.
    layers: `last`, or `weighted`: a learned sum of all layers; None: as the kept head was trained, else `weighted`
    where the encoder is frozen. projection: width of a new head's projector. lora: rank, alpha and names of the updated
    layers. head: `new`, or `keep`: the checkpoint's.
    """

    tune: str = "whole"
    layers: str | None = None
    projection: int = 256
    lora: Mapping[str, Any] | None = None
    gradient_checkpointing: bool = False
    head: str = "new"

    def checked(self) -> Self:
        """Check the words, and give the choices themselves. Raises UserError for an unknown word."""
        for name, value, known in (
            ("tune", self.tune, TUNES),
            ("layers", self.layers or "last", LAYERS),
            ("head", self.head, HEADS),
        ):
            if value not in known:
                raise UserError(f"There is no model.{name}={value}: {nearest(str(value), known)}.")
        for name in self.lora or {}:
            if name not in LORA:
                raise UserError(f"There is no model.lora.{name}: {nearest(name, LORA)}.")
        return self

    @property
    def new_layers(self) -> str:
        """Name the layers that feed a new head."""
        return self.layers or ("weighted" if self.tune == "frozen" else "last")


class WeightedSum(nn.Module):
    """Add layers by learned weights that sum to one (SUPERB: Yang et al., Interspeech 2021)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((count,), 1 / count))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Add states of one shape, one for each weight."""
        weights = self.weights.softmax(dim=0)
        total = weights[0] * states[0]
        for weight, state in zip(weights[1:], states[1:], strict=True):
            total = total + weight * state
        return total


def new_linear(inputs: int, outputs: int) -> nn.Linear:
    """Make a linear layer with the transformers library's initial weights, drawn from torch's generator."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=SPREAD)
    nn.init.zeros_(linear.bias)
    return linear


def masked_mean(x: Tensor, heard: Tensor) -> Tensor:
    """Average x (batch, frames, width) over the frames where heard (batch, frames) is true: (batch, width)."""
    return x.masked_fill(~heard[:, :, None], 0.0).sum(1) / heard.sum(1)[:, None]


class EncoderClassifier(Classifier):
    """Combine an encoder, its last layer or a weighted sum of all, and a head; a subclass says how they are called."""

    encoder: Any  # a library's module
    weighting: WeightedSum | None
    choices: Choices

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder stays in evaluation mode, so an utterance always has the same features."""
        super().train(mode)
        if self.choices.tune == "frozen":
            self.encoder.eval()
        return self

    def mixed(self, last: Tensor, states: Sequence[Tensor]) -> Tensor:
        """Give the input of the head: the last layer or the weighted sum."""
        return last if self.weighting is None else self.weighting(states)

    def after_encoder(self) -> list[nn.Module]:
        """List the modules between encoder and head."""
        return [] if self.weighting is None else [self.weighting]

    def restrict(self, always_frozen: nn.Module | None = None) -> None:
        """Freeze all weights but those that `tune` trains; `always_frozen` never learns."""
        if self.choices.tune == "lora":
            insert_lora(self.encoder, {**LORA, **(self.choices.lora or {})})
        elif self.choices.tune == "frozen":
            self.encoder.requires_grad_(False)
        elif always_frozen is not None:
            always_frozen.requires_grad_(False)


class TransformerClassifier(EncoderClassifier):
    """Classify by an encoder of the transformers library."""

    projector: nn.Module

    def read(
        self,
        architecture: Mapping[str, Any],
        pretrained: str | None,
        changes: Mapping[str, Any],
        classes: int,
        choices: Choices,
    ) -> Any:
        """Set encoder and weighting; give the library's whole model, so its head can be kept. Raises UserError."""
        self.choices = choices.checked()
        keep = choices.head == "keep"
        model = build_library_model(architecture, pretrained, changes, classes if keep else None)
        self.encoder = getattr(model, encoder_name(model))
        weighted = getattr(model, "layer_weights", None) is not None if keep else choices.new_layers == "weighted"
        if keep and choices.layers not in (None, "weighted" if weighted else "last"):
            raise UserError(f"model.head=keep was not trained on model.layers={choices.layers}: set model.layers=null.")
        self.weighting = WeightedSum(int(model.config.num_hidden_layers) + 1) if weighted else None
        if keep and self.weighting is not None:
            self.weighting.weights.data.copy_(model.layer_weights)
        if choices.gradient_checkpointing:
            encoder = self.encoder
            # Older versions of the library have only gradient_checkpointing_enable.
            enable = getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)
            enable({"use_reentrant": False, "context_fn": as_before})
        return model

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """Give the options that build this classifier again without its checkpoint, to load a finished model's weights.

        Before loading, all its weights are random, those of the encoder too: this is the ignorant teacher of a method.
        """
        layers = "last" if self.weighting is None else "weighted"
        return {
            "pretrained": None,
            "revision": None,
            "head": "new",
            "layers": layers,
            "architecture": architecture_of(self.encoder.config),
        }


def check_rate(pretrained: str | None, sample_rate: int, heard: int) -> None:
    """Check that recordings have the checkpoint's sample rate. Raises UserError."""
    if pretrained is not None and sample_rate != heard:
        raise UserError(
            f"model.pretrained={pretrained} needs {heard} Hz, not {sample_rate}: set dataset.sample_rate={heard}."
        )


def chosen_dropouts(chosen: Mapping[str, float] | None, known: Mapping[str, str]) -> dict[str, float]:
    """Give the library's names and numbers of the dropouts that a user names; the others are 0. Raises UserError."""
    for name in chosen or {}:
        if name not in known:
            raise UserError(f"There is no model.dropout.{name}: {nearest(name, known)}.")
    return {theirs: float((chosen or {}).get(name, 0.0)) for name, theirs in known.items()}


def insert_lora(encoder: nn.Module, options: Mapping[str, Any]) -> None:
    """Freeze the encoder and add trainable low-rank updates to the named linear layers (Hu et al., ICLR 2022)."""
    peft = package("peft")
    config = peft.LoraConfig(
        r=int(options["rank"]), lora_alpha=options["alpha"], target_modules=list(options["targets"]), lora_dropout=0.0
    )
    encoder.requires_grad_(False)
    peft.inject_adapter_in_model(config, encoder)
