"""The interface of a model of texts: waveforms in, logits for each frame and an embedding out."""

from __future__ import annotations

from torch import Tensor

from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.pooling import mask_of, masked_mean
from speechforget.recognition.ctc import ended


class Transcriber(Classifier):
    """Map waveforms to logits (batch, frames, tokens) of CTC, token 0 being the blank, and to one embedding each.

    A subclass also defines `counts`. head: maps the embedding of a frame to logits.
    """

    def counts(self, lengths: Tensor) -> Tensor:
        """Count the frames with logits of each utterance, (batch,); lengths (batch,) in samples."""
        raise NotImplementedError

    def spelled(self, x: Tensor, lengths: Tensor) -> Output:
        """Return the logits of frames x (batch, width, frames), and their mean over an utterance as its embedding."""
        counts = self.counts(lengths).to(x.device)
        embedding = masked_mean(x, mask_of(counts, x.shape[2], x))
        return Output(ended(self.head(x.transpose(1, 2)), counts), embedding)
