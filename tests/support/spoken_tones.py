"""A corpus whose transcripts a small model learns in seconds: a letter is a pitch, a space is silence."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE, LETTER_SECONDS = 8000, 0.08
PITCHES = {"a": 400, "b": 800, "c": 1300, "d": 2000}
SPEAKERS, EACH = 5, 14


def sound(text: str, overtone: float, generator: np.random.Generator) -> np.ndarray:
    """Speak a text, one pitch after another."""
    time = np.arange(int(LETTER_SECONDS * RATE)) / RATE
    parts = []
    for letter in text:
        pitch = PITCHES.get(letter, 0)
        parts.append(np.sin(2 * np.pi * pitch * time) + 0.3 * np.sin(2 * np.pi * overtone * time) * (pitch > 0))
    return 0.2 * (np.concatenate(parts) + generator.normal(0, 0.2, len(text) * len(time)))


def write(folder: Path, speakers: int = SPEAKERS, each: int = EACH) -> Path:
    """Write recordings and manifest.csv; a fifth of each speaker's are tests, and one transcript is not known."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for speaker in range(speakers):
        for take in range(each):
            words = ["".join(generator.choice(list(PITCHES), 2)) for _ in range(1 + int(generator.integers(2)))]
            name, text = f"speaker{speaker}_{take}.wav", " ".join(words)
            soundfile.write(folder / name, sound(text, 2800 + 200 * speaker, generator), RATE)
            subset = "test" if take % 5 == 0 else "train"
            unknown = (speaker, take) == (0, 1)
            said = "" if unknown else f"{text.capitalize()}!"
            row = {"path": name, "text": said, "speaker": f"speaker{speaker}"}
            rows.append({**row, "room": "hall" if take % 3 else "car", "subset": subset})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


OPTIONS = [
    "dataset=folder",
    "dataset.label=text",
    "dataset.sample_rate=8000",
    "dataset.lengths=bucketed",
    "dataset.seconds=auto",
    "model=quartznet",
    "model.channels=12",
    "model.kernels=[5]",
    "model.repeat=1",
    "model.bands=20",
    "train=transcripts",
    "train.epochs=24",
    "train.warmup=1",
    "train.batch_size=4",
    "train.learning_rate=0.02",
    "evaluation=transcripts",
    "task=sample",
]
