"""Connectionist temporal classification: the probability that a model gives to a text.

A model of texts gives logits (batch, frames, tokens), token 0 being the blank. A text is a row of token numbers, filled
up with -1. Frames are independent given the utterance, and a text is the sum over all ways to spell it.
Source: Graves et al., "Connectionist temporal classification", ICML 2006, equations 3, 8 and 15.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLANK, NOTHING = 0, -1
# Logit of each letter beyond the end of an utterance, where the blank has 0: its probability is exactly 0 in float32.
BEYOND = -1e4


def is_text(logits: Tensor) -> bool:
    """Return whether logits are of a model of texts, (batch, frames, tokens), and not of classes."""
    return logits.dim() == 3


def ended(logits: Tensor, frames: Tensor) -> Tensor:
    """Make all frames beyond the end of an utterance certain blanks, which change no probability of a text.

    logits: (batch, frames, tokens). frames: (batch,), of each utterance.
    """
    inside = torch.arange(logits.shape[1], device=logits.device) < frames.to(logits.device)[:, None]
    silence = torch.full_like(logits[0, 0], BEYOND)
    silence[BLANK] = 0
    return torch.where(inside[:, :, None], logits, silence)


def frames_of(logits: Tensor) -> Tensor:
    """Count the frames of each utterance, (batch,), at least 1: those that `ended` left alone."""
    return (logits.detach()[:, :, BLANK + 1 :].amax(dim=2) > BEYOND / 2).sum(dim=1).clamp(min=1)


def text_loss(logits: Tensor, texts: Tensor) -> Tensor:
    """Compute -log P(text | utterance) in nats, (batch,): the cross-entropy over all texts that exist.

    logits: (batch, frames, tokens). texts: (batch, letters). Infinite where an utterance has too few frames.
    """
    log = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    # The backward pass of CUDA adds in any order, so it would differ from run to run.
    log = log.log_softmax(dim=2).transpose(0, 1).cpu()
    letters = texts.cpu()
    frames = torch.full((len(letters),), log.shape[0])
    counts = (letters != NOTHING).sum(dim=1)
    loss = functional.ctc_loss(log, letters.clamp(min=1), frames, counts, blank=BLANK, reduction="none")
    return loss.to(logits.device)


def spoken(logits: Tensor) -> Tensor:
    """Return the greedy transcripts, (batch, frames) filled up with -1: the best token of each frame, collapsed."""
    best = logits.argmax(dim=2)
    kept = best != BLANK
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    last = best.shape[1]
    places = torch.where(kept, kept.cumsum(dim=1) - 1, last)
    found = torch.full((len(best), last + 1), NOTHING, dtype=best.dtype, device=best.device)
    return found.scatter_(1, places, best)[:, :last]


def frames_needed(texts: Tensor) -> Tensor:
    """Count the frames that a text needs, (batch,): one for each letter, and a blank between two equal ones."""
    repeats = (texts[:, 1:] == texts[:, :-1]) & (texts[:, 1:] != NOTHING)
    return (texts != NOTHING).sum(dim=1) + repeats.sum(dim=1)


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which answers are right, (batch,) bool; a transcript is right if each letter of it is.

    logits: (batch, classes) and labels (batch,), or (batch, frames, tokens) and texts (batch, letters).
    """
    if not is_text(logits):
        return logits.argmax(dim=1) == labels
    found = spoken(logits)
    width = max(found.shape[1], labels.shape[1])
    heard, said = (functional.pad(each, (0, width - each.shape[1]), value=NOTHING) for each in (found, labels))
    return (heard == said).all(dim=1)
