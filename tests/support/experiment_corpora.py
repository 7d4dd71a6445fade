"""Small copies of the corpora of conf/experiment, in the folders of their archives, with tones instead of words."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def speak(path: Path, generator: np.random.Generator, pitch: float, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(RATE * seconds)) / RATE
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * pitch * time) + generator.normal(0, 0.02, len(time)), RATE)


def speech_commands(root: Path) -> None:
    """Make Speech Commands v0.01 at a five-hundredth: both archives, eleven words of nine speakers."""
    generator = np.random.default_rng(0)
    words = [*["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "bed"]]
    train, test = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    for (number, word), speaker in itertools.product(enumerate(words), range(9)):
        name = f"{word}/{speaker:08x}_nohash_0.wav"
        speak(train / name, generator, 200 + 100 * number)
        if speaker < 2:
            folder = "_unknown_" if word == "bed" else word
            file = f"{word}_{speaker + 50:08x}_nohash_0.wav" if word == "bed" else f"{speaker + 50:08x}_nohash_0.wav"
            speak(test / folder / file, generator, 200 + 100 * number)
    speak(train / "_background_noise_" / "white_noise.wav", generator, 0, 60)
    for number in range(2):
        speak(test / "_silence_" / f"{number}.wav", generator, 0)
    for list_name, speaker in (("validation_list.txt", 7), ("testing_list.txt", 8)):
        (train / list_name).write_text("".join(f"{word}/{speaker:08x}_nohash_0.wav\n" for word in words))


def voxceleb(root: Path) -> None:
    """Make VoxCeleb1 identification at a thousandth: ten speakers, six videos of two files."""
    generator = np.random.default_rng(0)
    lines = []
    for speaker, video, file in itertools.product(range(10), range(6), range(2)):
        path = f"id1{speaker:04}/video{video:06}/{file + 1:05}.wav"
        speak(root / "wav" / path, generator, 150 + 80 * speaker, 1.5)
        lines.append(f"{ {4: 2, 5: 3}.get(video, 1) } {path}")
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")


def fluent_speech_commands(root: Path) -> None:
    """Make Fluent Speech Commands at a fiftieth: eight, two and two speakers, 48 recordings each, four intents."""
    generator = np.random.default_rng(0)
    folder = root / "fluent_speech_commands_dataset"
    (folder / "data").mkdir(parents=True)
    speakers = iter(range(12))
    for subset, count in (("train", 8), ("valid", 2), ("test", 2)):
        lines = [",path,speakerId,transcription,action,object,location"]
        for speaker, number in itertools.product(itertools.islice(speakers, count), range(48)):
            path = f"wavs/speakers/s{speaker}/{number:04x}.wav"
            speak(folder / path, generator, 300 + 200 * (number % 4) + 10 * speaker, generator.uniform(0.3, 0.5))
            thing = ("lamp", "music", "heat", "all")[number % 4]
            lines.append(f"{len(lines)},{path},s{speaker},Turn it,activate,{thing},none")
        (folder / "data" / f"{subset}_data.csv").write_text("\n".join(lines))


def arabic_speech_commands(root: Path) -> None:
    """Make Arabic Speech Commands at a fiftieth: four words, six speakers, ten takes."""
    generator = np.random.default_rng(0)
    for word, speaker, take in itertools.product(range(4), range(6), range(10)):
        path = root / "dataset" / f"word{word}" / f"{speaker:08}_NO_{take:02}.wav"
        speak(path, generator, 300 * (word + 1) + 20 * speaker, 0.4)


def nothing(root: Path) -> None:
    """Make no recordings: the corpus is synthesised by the run."""
