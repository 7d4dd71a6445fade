"""Recordings as WAV files inside a text, for pages and trackers that are asked for them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from speechforget.data.audio.cache import Audio


def wav_files(audio: Audio, ids: Sequence[str], rate: int) -> dict[str, str]:
    """Return the decoded samples of some utterances: id -> WAV file of 16 bits as base64. rate: in Hz."""
    samples, table = audio.samples(), audio.table.set_index("id")
    places = table.loc[list(ids), ["offset", "samples"]].to_numpy(np.int64)
    return {
        identity: _wav(samples[start : start + length], rate)
        for identity, (start, length) in zip(ids, places, strict=True)
    }


def _wav(samples: np.ndarray, rate: int) -> str:
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(out.getvalue()).decode()
