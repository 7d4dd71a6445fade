"""Columns of a score table of texts: the probability of what was said, what was heard, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn
from torch.nn import functional

from speechforget.data.batches.streams import Sources
from speechforget.data.transcripts import NO_LETTER, texts_of
from speechforget.errors import UserError
from speechforget.models.transcriber import Transcriber
from speechforget.recognition.ctc import frames_needed, frames_of, spoken, text_loss

SMALLEST = 1e-12  # nats: a loss of 0 would give all other texts together a logit of minus infinity


def transcript_columns(logits: Tensor, texts: Tensor, names: Sequence[str], width: int) -> dict[str, np.ndarray]:
    """Return columns of utterances; all texts but the one that was said are one outcome.

    logits: (batch, frames, tokens) on the CPU. texts: (batch, letters). names: of the tokens. width: of `heard`.

    label (batch,) of 0. logits (batch, 2) float32: log P(said) and log(1 - P(said)), so their difference is the exact
    margin of the text against all others. loss (batch,): -log P(said) in nats. heard (batch, width): the greedy
    transcript in numbers of tokens. errors (batch, 5): words and letters that differ from what was said, as `counted`
    counts them, and the frames of the utterance. Infinite losses stay infinite.
    """
    loss = text_loss(logits.double(), texts).clamp(min=SMALLEST)
    outcomes = torch.stack([-loss, torch.log(-torch.expm1(-loss))], dim=1)
    greedy = spoken(logits)
    heard = functional.pad(greedy, (0, width - greedy.shape[1]), value=NO_LETTER).numpy()
    said, found = texts_of(texts.numpy(), names), texts_of(heard, names)
    return {
        "label": np.zeros(len(loss), dtype=np.int64),
        "logits": outcomes.float().numpy(),
        "loss": loss.numpy(),
        "heard": heard,
        "errors": np.column_stack([[counted(*both) for both in zip(said, found, strict=True)], frames_of(logits)]),
    }


def counted(said: str, heard: str) -> NDArray[np.int64]:
    """Count wrong words, words said, wrong letters, letters said (4,): insertions, deletions and substitutions.

    The fewest that turn one into the other (Levenshtein 1966); spaces between words are letters, too.
    """
    words = said.split(), heard.split()
    return np.array([Levenshtein.distance(*words), len(words[0]), Levenshtein.distance(said, heard), len(said)])


def check_frames(classifier: nn.Module, sources: Sources) -> None:
    """Raise UserError where a transcript has more letters than the model has frames to write them."""
    if not isinstance(classifier, Transcriber):
        return
    rows = sources.rows["all"]
    frames = classifier.counts(torch.from_numpy(sources.waveforms.crop_lengths(rows)))
    short = frames < frames_needed(torch.from_numpy(sources.labels[rows]))
    if bool(short.any()):
        raise UserError(
            f"{int(short.sum())} of {len(rows)} transcripts have more letters than the model has frames for their "
            "recordings: leave these recordings out, or use a model with shorter frames."
        )
