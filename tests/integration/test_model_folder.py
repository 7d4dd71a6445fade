"""What a trained folder answers: waveforms, files, and what is refused."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.stage_runs import LABELS, RATE

from speechforget.data.batches.streams import Sources
from speechforget.errors import UserError
from speechforget.inference import load

WAVE = np.sin(np.arange(RATE)) / 2
NO_WAVEFORMS: dict[str, tuple[object, object, str]] = {
    "nan": (np.where(np.arange(RATE) == 5, np.nan, WAVE), None, "1 samples are NaN or infinite"),
    "infinite": (torch.full((RATE,), torch.inf), RATE, f"{RATE} samples are NaN"),
    "integers": ((WAVE * 32767).astype(np.int16), None, "out of range"),
    "two recordings": (np.stack([WAVE] * 9), None, r"\(channels, samples\), not \(9.* or a list of recordings"),
    "silent": (WAVE * 0, None, "silent"),
    "opposite channels": (np.stack([WAVE, -WAVE]), None, "silent"),
    "clipped": (np.sign(WAVE), None, "clipped .100%"),
    "short": (WAVE[: RATE // 200], None, r"too short .\d+ samples"),
    "one of several": ([WAVE, WAVE * np.nan], None, "samples are NaN"),
    "empty": (WAVE[:0], None, r"not \(0,\)"),
    "one": (WAVE[:1], 1000 * RATE, "too short"),
    "complex": (WAVE * 1j, None, "real numbers"),
    "words": ([{"a"}], None, "a waveform of numbers, not set"),
    "rate 0": (WAVE, 0, "above 0, in Hz, not 0"),
    "rate -1": (WAVE, -8000, "above 0"),
    "rate nan": (WAVE, float("nan"), "above 0"),
    "rate word": (WAVE, "16000", "above 0"),
    "rate truth": (WAVE, True, "above 0"),
    "rate of a file": ("tone.wav", RATE + 1, f"is at {RATE} Hz, not {RATE + 1}"),
    "empty file": ("empty.wav", None, "empty.wav cannot be used: too short"),
    "nan file": ("nan.wav", None, f"nan.wav cannot be used: not finite .{RATE} samples"),
}


def test_a_model_folder_classifies_waveforms_and_files(tmp_path: Path, sources: Sources, original: Path) -> None:
    import soundfile

    recogniser = load(original)
    waveform, _ = sources.waveforms.gather(np.array([3]))
    soundfile.write(tmp_path / "tone.wav", waveform[0].numpy(), RATE, subtype="PCM_16")
    heard, read = recogniser.classify(waveform[0]), recogniser.classify(tmp_path / "tone.wav")
    assert set(heard.probabilities) == set(LABELS) and abs(sum(heard.probabilities.values()) - 1) < 1e-6
    assert heard.label == max(heard.probabilities, key=lambda name: heard.probabilities[name])
    assert read.probabilities == pytest.approx(heard.probabilities, abs=1e-4)


def test_what_is_no_recording_is_refused_and_not_answered(tmp_path: Path, original: Path) -> None:
    import soundfile

    for file, samples in {"tone": WAVE, "empty": WAVE[:0], "nan": WAVE * np.nan}.items():
        soundfile.write(tmp_path / f"{file}.wav", samples, RATE, subtype="FLOAT")
    recogniser = load(original)
    for name, (given, rate, words) in NO_WAVEFORMS.items():
        recording: Any = tmp_path / given if isinstance(given, str) else given
        with pytest.raises(UserError) as refused:
            recogniser.classify(recording, rate)  # type: ignore[arg-type]
        assert re.search(words, str(refused.value)), (name, refused.value)


def test_destroyed_weights_give_no_answer(original: Path) -> None:
    recogniser = load(original)
    next(recogniser.classifier.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        recogniser.classify(torch.from_numpy(WAVE).requires_grad_(), RATE)


def test_a_result_finds_its_model_or_says_where_it_must_lie(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, model = tmp_path / "outputs" / "result" / "a", tmp_path / "outputs" / "unlearned" / "b"
    result.mkdir(parents=True)
    (result / "result.json").write_text('{"artefacts": {"unlearned": "b"}}')
    shutil.copytree(original, model)
    (tmp_path / "link").symlink_to(result)
    monkeypatch.chdir(result)
    for place in (result, Path(), tmp_path / "link"):
        assert load(place).labels == LABELS
    copied = shutil.copytree(result, tmp_path / "elsewhere" / "result" / "a")
    with pytest.raises(
        UserError,
        match=f"numbers only. Copy the folder unlearned/b .* {tmp_path / 'elsewhere' / 'unlearned' / 'b'}, or load",
    ):
        load(copied)
    shutil.copytree(model, tmp_path / "elsewhere" / "unlearned" / "b")
    assert load(copied).labels == LABELS
    for text in ("{", "[]", "{}"):
        (result / "result.json").write_text(text)
        with pytest.raises(UserError, match=r"result.json cannot be read"):
            load(result)
