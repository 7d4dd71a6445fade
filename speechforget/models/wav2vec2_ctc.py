"""wav2vec 2.0, HuBERT and WavLM with logits of CTC for each frame, as `...ForCTC` of the transformers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.classifier import Output
from speechforget.models.encoders.base import new_linear
from speechforget.models.encoders.huggingface import package
from speechforget.models.transcriber import Transcriber
from speechforget.models.wav2vec2 import Wav2Vec2, frames_of


class Wav2Vec2CTC(Wav2Vec2, Transcriber):
    """Transcribe by an encoder (see `Wav2Vec2`) and one linear layer on each of its frames, every 20 ms.

    head: `new`, or `keep`: the checkpoint's own, whose outputs are those of its vocab.json. options: of `Wav2Vec2`.
    """

    def __init__(
        self, classes: int, sample_rate: int, *, pretrained: str | None = None, head: str = "new", **options: Any
    ) -> None:
        if head == "keep" and pretrained is None:
            raise UserError("model.head=keep needs a checkpoint with a head: set model.pretrained, or model.head=new.")
        super().__init__(classes, sample_rate, pretrained=pretrained, **options)
        self.choices = self.choices._replace(head=head).checked()
        del self.projector
        width = self.encoder.config.hidden_size
        self.head = kept_head(str(pretrained), classes) if head == "keep" else new_linear(width, classes)

    def counts(self, lengths: Tensor) -> Tensor:
        """See `Transcriber`."""
        return frames_of(lengths.clamp(min=self.frontend.shortest), self.kernels, self.strides)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        samples = lengths.clamp(self.frontend.shortest, features.shape[1])
        return self.spelled(self.encoded(features, samples).transpose(1, 2), samples)

    @property
    def top(self) -> list[nn.Module]:
        """See `Wav2Vec2`."""
        return [self.head]

    @property
    def rebuilt_with(self) -> dict[str, Any]:
        """See `TransformerClassifier`."""
        return {name: value for name, value in super().rebuilt_with.items() if name != "projection"}


def kept_head(folder: str, classes: int) -> nn.Linear:
    """Read the head of a `...ForCTC` checkpoint. Raises UserError where there is none, or one of another size."""
    transformers = package("transformers")
    with torch.random.fork_rng(devices=[]):
        model, found = transformers.AutoModelForCTC.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    head: nn.Linear = model.lm_head
    if any(name.startswith("lm_head") for name in found["missing_keys"]):
        raise UserError(f"model.pretrained={folder} has no head of CTC for model.head=keep: set model.head=new.")
    if head.out_features != classes:
        raise UserError(
            f"The head of model.pretrained={folder} has {head.out_features} outputs, and {classes} are needed: "
            "set model.head=new."
        )
    return head
