"""The newcomer's path: the commands of docs/tutorial.md, one after another, from recordings to a reproduced record."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SMALL = ["train.epochs=4", "train.warmup=1", "model.channels=[8,8]", "trainer.threads=1", "logger=none"]


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("speechforget")]


def run(line: str, folder: Path) -> str:
    words = shlex.split(line)[1:]
    if any(word.startswith("dataset=") for word in words):
        words += SMALL
    for index, word in enumerate(words):
        if re.fullmatch(r"outputs/result/\w+-\.\.\.", word):
            words[index] = str(next(folder.glob(f"{word[:-3]}*")).relative_to(folder))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "run.py"), *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_a_newcomer_ends_with_a_record_that_is_reproduced(tmp_path: Path, tones: Path) -> None:
    shutil.copytree(tones, tmp_path / "recordings")
    ids = sorted(str(path.relative_to(tones)) for path in tones.rglob("*.wav"))
    mine = [identity for identity in ids if re.search(r"/0_NO_\d", identity)] or ids[:16]
    (tmp_path / "ids.txt").write_text("\n".join(mine) + "\n")
    shutil.copy(tones / ids[-1], tmp_path / "recording.wav")
    said = [(line, run(line, tmp_path)) for line in commands()]
    texts = {line.split()[1]: text for line, text in said}
    runs = [text for line, text in said if " dataset=" in line]
    assert "oracle" in runs[0] and not re.search(r"^Result: ", runs[0], flags=re.MULTILINE)  # the plan
    assert all(re.search(r"^Result: .+", text, flags=re.MULTILINE) for text in runs[1:])
    assert texts["verify"].count("reproduced") == 2 and "Nothing is wrong" in texts["verify"]
    assert (tmp_path / "my_model" / "README.md").exists() and "word" in texts["classify"]
    assert not list((tmp_path / "outputs" / "original").glob("*/*.safetensors"))  # purged
    assert not list(tmp_path.glob("outputs/result/scrub-*/forget.txt"))
    assert re.search(rf"\b[1-9]\d* of {len(mine)} recordings", texts["record"]), texts["record"]
