"""The one shape in which data meets models and methods."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Some utterances, ready for a classifier: `classifier(*batch.inputs)`.

    inputs: what the classifier's `forward` takes. For speech (waveform (batch, samples) float32 in [-1, 1], lengths (batch,)
        in samples) and, where SpecAugment is on, spans (see `models/frontend.py`).
    labels: (batch,) int64 class numbers.
    rows: (batch,) int64 utterance numbers in the corpus table; every random draw is made from them.
    forget: (batch,) bool, true where the utterance is in the request.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    forget: Tensor


class Pair(NamedTuple):
    """A forget batch beside a retain batch, for methods that need both in one step."""

    forget: Batch
    retain: Batch
