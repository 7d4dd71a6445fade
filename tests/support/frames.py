"""Compare outputs of models, of classes and of transcripts, which have a row of logits for each frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from speechforget.recognition.ctc import BLANK, ended, is_text


def joined(logits: list[Tensor]) -> Tensor:
    """Join outputs of batches; of transcripts, as probabilities with the same number of frames."""
    if not is_text(logits[0]):
        return torch.cat(logits)
    longest = max(each.shape[1] for each in logits)
    filled = [torch.nn.functional.pad(each, (0, 0, 0, longest - each.shape[1])) for each in logits]
    counts = [torch.full((len(each),), each.shape[1]) for each in logits]
    return torch.cat([ended(each, count) for each, count in zip(filled, counts, strict=True)]).softmax(dim=2)


def check_head(model: Any, output: Any, lengths: tuple[int, ...], classes: int = 7) -> None:
    """Check that logits are the head of the embedding; of transcripts, that their mean over frames is."""
    logits = output.logits
    if not is_text(logits):
        assert logits.shape == (len(lengths), classes)
        assert torch.allclose(model.head(output.embedding), logits)
        return
    counts = model.counts(torch.tensor(lengths))
    assert logits.shape == (len(lengths), int(counts.max()), classes)
    for row, count in enumerate(counts.tolist()):
        assert torch.allclose(model.head(output.embedding[row]), logits[row, :count].mean(dim=0), atol=1e-5)
        assert bool(logits[row, count:].argmax(dim=1).eq(BLANK).all())


def labels_for(logits: Tensor, labels: Tensor) -> Tensor:
    """Return labels as these outputs need them: of transcripts, one letter each."""
    return labels[:, None].clamp(min=1) if is_text(logits) else labels
