"""Speak sentences with espeak-ng, one forked child per clip, each beside a source of noise.

`espeak_sentences` runs it as `python -m speechforget.data.corpora.espeak_sentence_synthesis JOB.json SHARD SHARDS`.
It is a program of its own, and imports NumPy late, for the reasons that `espeak_synthesis` gives.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechforget.data.corpora.espeak_synthesis import UNKNOWN_VOICE, Speaker, in_child

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The babble: these voices read the fable that phoneticians have read (IPA Handbook, 1999), each from another sentence.
BABBLE_VOICES = ("en-us+m1", "en+f1", "en-gb-scotland+m3", "en-029+f4", "en-us+m7", "en-gb-x-rp+m5")
FABLE = (
    "The North Wind and the Sun were disputing which was the stronger, when a traveller came along wrapped in a warm "
    "cloak.",
    "They agreed that the one who first succeeded in making the traveller take his cloak off should be considered "
    "stronger than the other.",
    "Then the North Wind blew as hard as he could, but the more he blew the more closely did the traveller fold his "
    "cloak around him.",
    "And at last the North Wind gave up the attempt.",
    "Then the Sun shone out warmly, and immediately the traveller took off his cloak.",
    "And so the North Wind was obliged to confess that the Sun was the stronger of the two.",
)


class CannotSpeakError(Exception):
    """What espeak has no sound for, in words."""


def speak(speaker: Speaker, clip: dict[str, Any]) -> bytes:
    """Speak a clip in a child; return int16 bytes. Raises CannotSpeakError."""
    spoken = in_child(partial(speaker.say, {**clip, "word": clip["text"]}))
    if spoken == UNKNOWN_VOICE:
        raise CannotSpeakError(f"no voice '{clip['voice']}'")
    if not any(spoken):
        raise CannotSpeakError(f"nothing to say for the sentence '{clip['text']}'")
    return spoken


def speak_babble(speaker: Speaker) -> list[bytes]:
    """Let all voices of the babble read the fable."""
    return [
        speak(
            speaker,
            {
                "text": " ".join(FABLE[number:] + FABLE[:number]),
                "voice": voice,
                "rate": 150 + 10 * number,
                "volume": 100,
                "pitch": 35 + 6 * number,
                "range": 50,
            },
        )
        for number, voice in enumerate(BABBLE_VOICES)
    ]


def floats(spoken: bytes, rate: int, sample_rate: int) -> NDArray[np.float64]:
    """Resample what espeak said to `sample_rate` Hz. Returns (samples,)."""
    import numpy as np

    from speechforget.data.audio.files import resample

    pcm = (np.frombuffer(spoken, dtype=np.int16) / 32768).astype(np.float32)
    return resample(pcm, rate, sample_rate).astype(np.float64)


def mixed(voices: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """Mix voices of one loudness, up to the end of the shortest. Returns (samples,), or None without voices."""
    import numpy as np

    if not voices:
        return None
    count = min(map(len, voices))
    return np.sum([voice[:count] / np.sqrt(np.mean(np.square(voice[:count]))) for voice in voices], axis=0)


def write(
    clip: dict[str, Any],
    sentence: NDArray[np.float64],
    babble: NDArray[np.float64] | None,
    folder: Path,
    sample_rate: int,
) -> None:
    """Write one clip as WAV: `clip["before"]` seconds, the sentence, `clip["after"]` seconds; noise beside all of it.

    The noise has a level of `clip["snr"]` dB below that of the sentence.
    """
    import io

    import numpy as np
    import soundfile

    from speechforget.data.audio.files import to_pcm
    from speechforget.data.corpora.noise_sources import noise

    before, after = (round(clip[name] * sample_rate) for name in ("before", "after"))
    samples = np.concatenate([np.zeros(before), sentence, np.zeros(after)])
    level = np.sqrt(np.mean(np.square(sentence))) * 10 ** (-clip["snr"] / 20)
    samples += level * noise(clip["noise"], len(samples), sample_rate, clip["draw"], babble)
    sound = io.BytesIO()  # libsndfile gives no reason when it cannot write
    soundfile.write(sound, to_pcm(samples), sample_rate, format="WAV", subtype="PCM_16")
    target = folder / clip["id"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(sound.getvalue())


def main(job: Path, shard: int, shards: int) -> None:
    """Make every `shards`-th clip of the job, and print what `espeak_synthesis.main` prints."""
    work = json.loads(job.read_text(encoding="utf-8"))
    clips = work["clips"][shard::shards]
    speaker, spoken = Speaker(), []
    try:
        voices = speak_babble(speaker) if any(clip["noise"] == "babble" for clip in clips) else []
        for clip in clips:
            spoken.append(speak(speaker, clip))
            print(clip["id"], flush=True)
    except CannotSpeakError as error:
        print(f"error: {error}", flush=True)
        return
    # From here on nothing forks.
    rate = work["sample_rate"]
    babble = mixed([floats(voice, speaker.rate, rate) for voice in voices])
    for clip, sentence in zip(clips, spoken, strict=True):
        try:
            write(clip, floats(sentence, speaker.rate, rate), babble, Path(work["folder"]), rate)
        except OSError as error:
            print(f"refused: {error.errno} {clip['id']}", flush=True)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
