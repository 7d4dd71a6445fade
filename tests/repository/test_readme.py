"""Every command and every piece of code of README and docs runs, on a corpus small enough for a test."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import warm

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
SMALL = ["train.epochs=2", "train.warmup=1", "model.channels=[8,8]", "trainer.threads=1", "logger=none"]
ESPEAK = ["dataset.corpus.words=[stop,go,left]", "dataset.corpus.voices=5", "dataset.corpus.renderings=4"]
FEW_PAIRS = ["task.percent=30", "evaluation.pairs=4", "evaluation.oracles=4"]
# On corpora and clusters that are not here, or on the default corpus as it is: the commands compose; other tests run
# their like.
AWAY = re.compile(
    r"arabic_speech_commands|speech_recognition|launch=slurm|task\.by=published|planted|backdoor|task\.share|scripts/|"
    r"torchrun"
)
# The fast ones: a run, and what reads its result.
QUICK = re.compile(r"python run.py method=\w+|speechforget report outputs|python -m speechforget.explain .*")
MOST_LINES = 170


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The command lines of a page, without comments and set-up."""
    lines = [line for block in blocks("bash", page.read_text(encoding="utf-8")) for line in block.splitlines()]
    return [line for line in (line.split(" # ")[0].strip() for line in lines) if line and "pip install" not in line]


def all_commands() -> list[object]:
    """Each command once; all but those of `QUICK` on the README are slow."""
    found: dict[str, object] = {}
    for page in PAGES:
        for line in commands(page):
            if line not in found and not AWAY.search(line) and page.name != "tutorial.md":  # has a test of its own
                quick = page == PAGES[0] and QUICK.fullmatch(line)
                found[line] = line if quick else pytest.param(line, marks=pytest.mark.slow)
    return list(found.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> Path:
    """What the README's reader has: recordings, a method of their own."""
    made = tmp_path_factory.mktemp("readme")
    shutil.copytree(tones, made / "recordings")
    shutil.copy(next((made / "recordings").glob("*/*.wav")), made / "recording.wav")
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    for block in (block for page in pages for kind in ("python", "yaml") for block in blocks(kind, page)):
        if named := re.match(r"# (\S+\.(?:py|yaml))\n", block):
            (made / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (made / named[1]).write_text(block)
    return made


def found_result(word: str, folder: Path) -> str:
    """Replace a result that a page names in part by one that earlier commands made."""
    if not re.fullmatch(r"outputs/result/\w+-\.\.\.", word):
        return word
    return str(sorted(path.parent for path in folder.glob(f"{word[:-3]}*/DONE"))[0])


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    if "plan=true" not in words:  # all methods take minutes
        words = [word.replace("glob(*)", "glob(s*)") for word in words]
    path = os.pathsep.join([str(ROOT), str(folder)])  # a reader's run.py is in the folder of their own modules
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = f"{value}{os.pathsep}{ROOT}"
    if "run.py" in words:
        words[words.index("run.py")] = str(ROOT / "run.py")
        own = [word for word in words if word.startswith(("dataset=", "model="))]
        words += [word for word in SMALL if not (word.startswith("model.") and "model=small" in own)]
        words += ESPEAK if not {"dataset=folder", "dataset=mine"} & set(own) else []
        words += FEW_PAIRS if "evaluation=audit" in words else []
    if words[0] == "speechforget":
        words[:1] = ["python", str(ROOT / "run.py")]
    words = [found_result(word, folder) for word in words]
    words[0] = {"python": sys.executable}.get(words[0], words[0])
    if encoder := next((word for word in words if re.search(r"model=(hubert|wavlm|wav2vec2)", word)), None):
        words = [word for word in words if word not in SMALL or not word.startswith("model.")]
        words += tiny_encoder(encoder, words, folder)
    if words[0] == sys.executable:
        return warm.run(words[1:], folder, environment, timeout=300)
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


def tiny_encoder(model: str, words: list[str], folder: Path) -> list[str]:
    """Overrides that make a pretrained encoder small; the folders that the line names are made."""
    encoders = pytest.importorskip("support.encoders")
    for named in re.findall(r"(my_\w+)", " ".join(words)):
        if not (folder / named).exists():
            library = encoders.checkpoint(folder / named, model.removeprefix("model="), 3)
            library.config.id2label = dict(enumerate(("go", "left", "stop")))
            library.config.save_pretrained(folder / named)
    architecture = json.dumps(encoders.RAW).replace('"', "")
    fetched = [] if any(word.startswith("model.pretrained=") for word in words) else ["model.pretrained=null"]
    return [*fetched, "model.projection=8", f"model.architecture={architecture}"]


def test_the_two_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    setup = [line for block in blocks("bash") for line in block.splitlines() if "pip install" in line]
    assert setup == ["pip install -e . && python run.py", 'pip install -e ".[test]" && pytest']
    assert "pip install --quiet -e . && python run.py" in ci
    assert 'pip install --quiet -e ".[test]"' in ci and "\npytest" in ci


@pytest.mark.parametrize("line", all_commands())
def test_a_command_runs(line: str, folder: Path) -> None:
    listed = re.search(r"task\.ids=(\S+)", line)
    if listed and listed[1] != "poisoned.txt":  # `speechforget poison` writes that one
        ids = sorted(path.relative_to(folder / "recordings") for path in (folder / "recordings").rglob("*.wav"))
        if "dataset=folder" not in line:
            ids = sorted(folder.glob("outputs/result/*espeak*/forget.txt"))[0].read_text().splitlines()
        (folder / listed[1]).write_text("\n".join(map(str, ids[:2])) + "\n")
    done = run(line, folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.slow
def test_a_command_that_cannot_run_here_composes(folder: Path) -> None:
    lines = {line for page in PAGES for line in commands(page) if AWAY.search(line) and "run.py" in line}
    for line in sorted(lines):
        words = shlex.split(line.replace("run.py", str(ROOT / "run.py")))
        words = words[words.index(str(ROOT / "run.py")) :]
        if "-m" in words or any("glob" in word for word in words):
            words = [word for word in words if word != "-m"]
            words = [re.sub(r"=glob\(\*\)$", "=scrub", re.sub(r"=([^,\[]+),.*$", r"=\1", word)) for word in words]
        done = warm.run([*words, "--cfg", "job"], folder, os.environ, timeout=300)
        assert done.returncode == 0, f"{words}: {done.stderr}"


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_counts_what_there_is() -> None:
    told = {group: int(count) for count, group in re.findall(r"\[(\d+) (methods|models|corpora)\]", README)}
    folders = {"methods": "method", "models": "model", "corpora": "dataset"}
    assert told == {group: len(list((ROOT / "conf" / name).glob("*.yaml"))) for group, name in folders.items()}


def test_every_path_and_module_that_pages_name_exists() -> None:
    """In pages, docstrings and comments; a name with `<`, `*` or `...` stands for several."""
    path = re.compile(r"(?<![\w/.])((?:speechforget|conf|scripts|tests|docs)/[\w/.-]+\w)(?![\w*<{/])")
    module = re.compile(r"python -m (speechforget[\w.]*)")
    texts = [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "conf").rglob("*.yaml")]
    texts += [each for part in ("speechforget", "hydra_plugins", "scripts") for each in (ROOT / part).rglob("*.py")]
    missing = []
    for text in texts:
        content = text.read_text(encoding="utf-8")
        for named in path.findall(content):
            if not (ROOT / named).exists() and not (ROOT / f"{named}.yaml").exists():
                missing.append(f"{text.relative_to(ROOT)}: {named}")
        for named in module.findall(content):
            stem = ROOT.joinpath(*named.split("."))
            if not stem.with_suffix(".py").exists() and not (stem / "__main__.py").exists():
                missing.append(f"{text.relative_to(ROOT)}: {named}")
    assert not missing


@pytest.mark.parametrize(("group", "page"), [("method", "methods"), ("model", "models"), ("dataset", "datasets")])
def test_every_choice_is_in_the_docs(group: str, page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    listed: set[str] = set()
    for cell in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE):
        for family in cell.split(","):  # `wav2vec2_base` `_large` stands for both
            names = re.findall(r"`(\w+)`", family)
            listed |= {*names, *(names[0].rsplit("_", 1)[0] + name for name in names[1:])}
    assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} <= listed


def test_the_picture_is_that_of_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is not: python scripts/architecture.py"""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import architecture

    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture()


@pytest.mark.parametrize("name", ["README.md", pytest.param("docs/export.md", marks=pytest.mark.slow)])
def test_the_result_can_be_used(name: str, folder: Path) -> None:
    results = sorted(path.parent for path in folder.glob("outputs/result/*/DONE"))
    loading = [block for block in blocks("python", (ROOT / name).read_text()) if "speechforget.load" in block]
    (code,) = [block for block in loading if "my_delta" not in block]  # test_export.py has its like
    if "my_model" in code and not (folder / "my_model").exists():
        done = run(f"speechforget export {results[0]} my_model", folder)
        assert done.returncode == 0, done.stderr
    recording = next((folder / "recordings").glob("*/*.wav"))
    code = code.replace("outputs/result/scrub-...", str(results[0])).replace("recording.wav", str(recording))
    code = code.replace('"my_model"', f'"{folder / "my_model"}"')
    (folder / "use.py").write_text(code)
    done = warm.run([str(folder / "use.py")], ROOT, os.environ, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
