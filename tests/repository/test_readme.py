"""Every command and every piece of code in the README runs, on a corpus small enough for a test."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALL = ["train.epochs=2", "train.warmup=1", "model.channels=[8,8]", "trainer.threads=1", "logger=none"]
ESPEAK = ["dataset.corpus.words=[stop,go,left]", "dataset.corpus.voices=5", "dataset.corpus.renderings=4"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line.split(" # ")[0].strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]
SETUP = [line for line in COMMANDS if line.startswith("pip install")]
# Of a corpus that is not here, or of the default one as it is; tests/test_slurm.py, test_published.py and test_request.py run their like.
LONG = [
    line for line in COMMANDS if re.search(r"arabic_speech_commands|launch=slurm|task\.by=published|task\.share", line)
]
REST = [line for line in COMMANDS if line not in SETUP + LONG]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> Path:
    """What the README's reader has: recordings, a list of requests, a method of their own."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(tones, folder / "recordings")
    for block in blocks("python") + blocks("yaml"):
        if named := re.match(r"# (\S+\.(?:py|yaml))\n", block):
            (folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / named[1]).write_text(block)
    return folder


def run(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    if "plan=true" not in words:  # all methods take minutes; tests/test_every_method.py runs each
        words = [word.replace("glob(*)", "glob(s*)") for word in words]
    # A reader's run.py lies in this folder, so their own modules are found; the configs in my_conf are, too.
    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{place}",
    }
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = f"{value}{os.pathsep}{ROOT}"
    if "run.py" in words:
        words[words.index("run.py")] = str(ROOT / "run.py")
        words += SMALL + ([] if "dataset=folder" in words else ESPEAK)
    words[0] = {"python": sys.executable}.get(words[0], words[0])
    if encoder := next((word for word in words if re.search(r"model=(hubert|wavlm|wav2vec2)", word)), None):
        words = [word for word in words if word not in SMALL or not word.startswith("model.")] + tiny_encoder(
            encoder, words, place
        )
    return subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300)


def tiny_encoder(model: str, words: list[str], place: Path) -> list[str]:
    """Overrides that make a pretrained encoder small; the folders that the line names are made."""
    encoders = pytest.importorskip("tests.encoders" if __package__ else "encoders")
    for named in re.findall(r"(my_\w+)", " ".join(words)):
        if not (place / named).exists():
            library = encoders.checkpoint(place / named, model.removeprefix("model="), 3)
            library.config.id2label = dict(enumerate(("go", "left", "stop")))
            library.config.save_pretrained(place / named)
    architecture = json.dumps(encoders.RAW).replace('"', "")
    fetched = [] if any(word.startswith("model.pretrained=") for word in words) else ["model.pretrained=null"]
    return [*fetched, "model.projection=8", f"model.architecture={architecture}"]


def test_the_two_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert SETUP[:2] == ["pip install -e . && python run.py", 'pip install -e ".[test]" && pytest']
    assert (
        "pip install --quiet -e . && python run.py" in ci
        and 'pip install --quiet -e ".[test]"' in ci
        and "\npytest" in ci
    )


SWEEPS = ("task=sample,class", "launch=joblib")  # minutes


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=pytest.mark.slow) if any(word in line for word in SWEEPS) else line for line in REST],
)
def test_a_command_runs(line: str, place: Path) -> None:
    if "requests.txt" in line:
        forget = sorted(place.glob("outputs/result/*/forget.txt"))
        (place / "requests.txt").write_text("\n".join(forget[0].read_text().splitlines()[:2]) + "\n")
    done = run(line, place)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("line", LONG)
def test_a_command_on_a_corpus_that_is_not_here_composes(line: str, place: Path) -> None:
    words = shlex.split(line.replace("run.py", str(ROOT / "run.py")))
    if "-m" in words or any("glob" in word for word in words):
        words = [word for word in words if word != "-m"]
        words = [re.sub(r"=glob\(\*\)$", "=scrub", re.sub(r"=([^,\[]+),.*$", r"=\1", word)) for word in words]
    done = subprocess.run(
        [sys.executable, *words[1:], "--cfg", "job"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_method_is_listed() -> None:
    methods = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    listed = {
        name
        for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", README, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert methods <= listed


def test_the_result_can_be_used(place: Path) -> None:
    results = sorted(path.parent for path in place.glob("outputs/result/*/DONE"))
    (code,) = [block for block in blocks("python") if "speechforget.load" in block]
    recording = next((place / "recordings").glob("*/*.wav"))
    code = code.replace("outputs/result/scrub-...", str(results[0])).replace("recording.wav", str(recording))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
