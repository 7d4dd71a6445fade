"""Small copies of corpora with their own lists and layouts, and their index with the options of their yaml."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from speechforget.data.corpora import ravdess
from speechforget.data.corpora.base import Corpus

CONF = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = ("voxceleb1", "librispeech", "fluent_speech_commands", "slurp", "crema_d", "ravdess")
SAMPLE = yaml.safe_load((CONF.parent / "task" / "sample.yaml").read_text())
MakeCorpus = Callable[[str], Path]
generator = np.random.default_rng(0)


def sound(path: Path) -> None:
    """Write 50 ms of random samples, different in every file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, generator.integers(-9000, 9000, 800).astype(np.int16), 16000)


def copy(source: str, target: str) -> None:
    """Link sound files, which no test changes; copy lists."""
    (os.link if source.endswith((".wav", ".flac")) else shutil.copy)(source, target)


def make_voxceleb1(root: Path) -> Path:
    lines = []
    for speaker in range(4):
        for video in range(4):
            for number in range(5):
                name = f"id1000{speaker}/-v_{video}deo/{number + 1:05}.wav"
                sound(root / "wav" / name)
                lines.append(f"{(1, 1, 2, 3)[video]} {name}\n")
    (root / "iden_split.txt").write_text("".join(lines))
    about = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    about += [
        f"id1000{speaker}\tSome_Body\t{'mf'[speaker % 2]}\t{('Ireland', 'New Zealand')[speaker // 2]}\tdev"
        for speaker in range(4)
    ]
    (root / "vox1_meta.csv").write_text("\n".join(about))
    return root


def make_librispeech(root: Path) -> Path:
    top = root / "LibriSpeech"
    about = ["; a comment | with | bars", ";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for speaker in range(10, 16):
        about.append(f"{speaker:<5}| {'FM'[speaker % 2]} | train-clean-100  | 25.19 | A. Reader | B. Reader")
        for chapter in range(1 if speaker == 10 else 4):
            folder = top / "train-clean-100" / str(speaker) / str(100 + chapter)
            names = [f"{speaker}-{100 + chapter}-{number:04}" for number in range(4 + chapter)]
            for name in names:
                sound(folder / f"{name}.flac")
            (folder / f"{speaker}-{100 + chapter}.trans.txt").write_text(
                "".join(f"{name} SOME WORDS\n" for name in names)
            )
    (top / "SPEAKERS.TXT").write_text("\n".join(about))
    return root


def make_fluent_speech_commands(root: Path) -> Path:
    top = root / "fluent_speech_commands_dataset"
    (top / "data").mkdir(parents=True)
    about = [
        ",speakerId,Self-reported fluency level ,First Language spoken,"
        "Current language used for work/school,gender,ageRange"
    ]
    subsets = {"train": range(4), "valid": range(4, 5), "test": range(5, 6)}
    for subset, speakers in subsets.items():
        lines = [",path,speakerId,transcription,action,object,location"]
        for speaker in speakers:
            about.append(
                f'{speaker},s{speaker},native,"English (Canada)",English (Canada),'
                f"{('male', 'female')[speaker % 2]},22-40"
            )
            for number in range(16):
                path = f"wavs/speakers/s{speaker}/{number:04x}-452c.wav"
                sound(top / path)
                action, thing, location = (("change language", "none", "none"), ("activate", "lights", "kitchen"))[
                    number % 2
                ]
                lines.append(f'{number},{path},s{speaker},"Turn it, please",{action},{thing},{location}')
        (top / "data" / f"{subset}_data.csv").write_text("\n".join(lines))
    (top / "data" / "speaker_demographics.csv").write_text("\n".join(about))
    return root


def make_slurp(root: Path) -> Path:
    folder = root / "dataset" / "slurp"
    folder.mkdir(parents=True)
    metadata: dict[str, Any] = {}
    for subset in ("train", "devel", "test", "train_synthetic"):
        lines = []
        for entry in range(8):
            identity = str(len(metadata))
            files = [
                f"audio-{subset}{entry}-{user}{microphone}.flac" for user in range(4) for microphone in ("", "-headset")
            ]
            for file in files:
                sound(root / "audio" / ("slurp_synth" if "synthetic" in subset else "slurp_real") / file)
            scenario, action = (("alarm", "set"), ("email", "sendemail"))[entry % 2]
            recordings = [{"file": file, "wer": 0, "ent_wer": 0, "status": "correct"} for file in files]
            said = {
                "slurp_id": int(identity),
                "sentence": "wake me",
                "intent": f"{scenario}_{action}",
                "scenario": scenario,
                "action": action,
            }
            lines.append(json.dumps({**said, "recordings": recordings}))
            users = ("FE-101", "MO-102", "UNK-103", "ME-104")
            named = {
                file if entry % 2 else file.removeprefix("audio-").removesuffix(".flac"): number // 2
                for number, file in enumerate(files)
            }
            metadata[identity] = {"recordings": {file: {"usrid": users[number]} for file, number in named.items()}}
        (folder / f"{subset}.jsonl").write_text("\n".join(lines))
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return root


def make_crema_d(root: Path) -> Path:
    for actor in range(1001, 1006):
        for emotion in ("ANG", "HAP", "NEU", "SAD"):
            for sentence in ("DFA", "IEO", "MTI"):
                for level in ("XX", "HI"):
                    sound(root / "AudioWAV" / f"{actor}_{sentence}_{emotion}_{level}.wav")
    (root / "AudioWAV" / "1005_MTI_SAD_XX.wav").rename(root / "AudioWAV" / "1005_MTI_SAD_X.wav")
    rows = [
        f'{actor},51,"{("Male", "Female")[actor % 2]}","African American","Not Hispanic"' for actor in range(1001, 1006)
    ]
    (root / "VideoDemographics.csv").write_text("\n".join(['"ActorID","Age","Sex","Race","Ethnicity"', *rows]))
    return root


def make_ravdess(root: Path) -> Path:
    for path in ravdess.published()["path"]:
        sound(root / path)
    sound(root / "Actor_01" / "03-02-01-01-01-01-01.wav")  # a song
    return root


def index(name: str, root: Path | None, label: str | None = None, **options: Any) -> Corpus:
    """Index the corpus with the options of its yaml."""
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    asked = {option: value for option, value in config["corpus"].items() if option not in {"_target_", "seed"}}
    return import_module(f"speechforget.data.corpora.{name}").index(
        root, label or config["label"], Path(), **{**asked, **options}
    )
