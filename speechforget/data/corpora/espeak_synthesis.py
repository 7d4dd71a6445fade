"""Speak words with espeak-ng, one forked child per clip.

`espeak` runs it as `python -m speechforget.data.corpora.espeak_synthesis JOB.json SHARD SHARDS`.

espeak-ng carries a state from clip to clip, so its output depends on earlier clips. A child that is forked after
initialisation has no earlier clips. A process that forks must have no threads: so this module is a program of its own,
and imports NumPy, which has threads, only after the last fork.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# speak_lib.h: AUDIO_OUTPUT_SYNCHRONOUS, espeakINITIALIZE_DONT_EXIT, espeakCHARS_UTF8.
SYNCHRONOUS, DO_NOT_EXIT, UTF8 = 2, 0x8000, 1
PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}  # speak_lib.h: espeak_PARAMETER
UNKNOWN_VOICE = b"!"
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """espeak-ng in this process. rate: sample rate in Hz."""

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.library.espeak_Initialize(
            SYNCHRONOUS, 0, str(Path(espeakng_loader.get_data_path()).parent).encode(), DO_NOT_EXIT
        )
        if self.rate <= 0:
            raise RuntimeError("espeak-ng does not start: its data are missing")
        self.parts: list[bytes] = []
        self.callback = CALLBACK(self._collect)  # a reference, because the library keeps none
        self.library.espeak_SetSynthCallback(self.callback)

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self.parts.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, clip: dict[str, Any]) -> bytes:
        """Speak one clip (voice, word and PARAMETERS); return int16 bytes. Call this once per process."""
        if self.library.espeak_SetVoiceByName(clip["voice"].encode()):
            return UNKNOWN_VOICE
        for name, number in PARAMETERS.items():
            self.library.espeak_SetParameter(number, clip[name], 0)
        text = clip["word"].encode()
        self.library.espeak_Synth(text, len(text) + 1, 0, 0, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        return b"".join(self.parts)


def in_child(work: Callable[[], bytes]) -> bytes:
    """Run `work` in a forked child and return its bytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(work())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def finish(clip: dict[str, Any], spoken: bytes, rate: int, folder: Path, sample_rate: int) -> None:
    """Write one clip as WAV: resampled, placed in one second, with noise `clip["snr"]` dB below the word."""
    import io

    import numpy as np
    import soundfile

    from speechforget.data.audio.files import resample, to_pcm
    from speechforget.seeding import uniform

    word = resample((np.frombuffer(spoken, dtype=np.int16) / 32768).astype(np.float32), rate, sample_rate)
    samples = np.zeros(max(len(word), sample_rate), dtype=np.float64)
    start = round(clip["position"] * (len(samples) - len(word)))
    samples[start : start + len(word)] = word
    level = np.sqrt(np.mean(np.square(word, dtype=np.float64))) * 10 ** (-clip["snr"] / 20)
    noise = uniform(np.array([clip["draw"]]), len(samples), "espeak noise")[0] * 2 - 1
    sound = io.BytesIO()  # libsndfile gives no reason when it cannot write
    soundfile.write(sound, to_pcm(samples + level * np.sqrt(3) * noise), sample_rate, format="WAV", subtype="PCM_16")
    target = folder / clip["id"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(sound.getvalue())


def main(job: Path, shard: int, shards: int) -> None:
    """Make every `shards`-th clip of the job, and print one line per spoken clip.

    Stops after printing `error: ...` for a clip that cannot be spoken, or `refused: ...` with the system's error number
    for a clip that cannot be written.
    """
    work = json.loads(job.read_text(encoding="utf-8"))
    clips = work["clips"][shard::shards]
    speaker = Speaker()
    spoken = []
    for clip in clips:
        answer = in_child(partial(speaker.say, clip))
        if answer == UNKNOWN_VOICE or not any(answer):
            problem = (
                f"no voice '{clip['voice']}'"
                if answer == UNKNOWN_VOICE
                else f"nothing to say for the word '{clip['word']}'"
            )
            print(f"error: {problem}", flush=True)
            return
        spoken.append(answer)
        print(clip["id"], flush=True)
    for clip, answer in zip(clips, spoken, strict=True):
        try:
            finish(clip, answer, speaker.rate, Path(work["folder"]), work["sample_rate"])
        except OSError as error:
            print(f"refused: {error.errno} {clip['id']}", flush=True)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
