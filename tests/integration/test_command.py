"""The command line: help that teaches, typos that are understood, mistakes that end in one sentence."""

import itertools
import json
import math
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from speechforget.cli import main as command_line
from speechforget.cli.arguments import SUBCOMMANDS, expand_home
from speechforget.cli.command import main
from speechforget.cli.messages import explain
from speechforget.cli.sweep import SWEEP
from speechforget.config.validate import check
from speechforget.errors import Diverged, NotApplicable
from speechforget.launchers.slurm import python_path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and any(path.glob("*.yaml")))


def one_sentence(run) -> str:
    """What a user's mistake must end in: exit code 1, one line on stderr, no stack."""
    assert run.returncode == 1, run.stdout + run.stderr
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: "), run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    return lines[0]


def test_help_teaches_without_torch(command) -> None:
    run = command("--help", env={"PYTHONPATH": str(ROOT / "tests" / "support" / "no_torch")})
    assert run.returncode == 0, run.stderr
    for group in GROUPS:
        assert f"{group}:" in run.stdout
    for taught in ("speechforget -m", "speechforget report", "python run.py", "my_conf", "scrub"):
        assert taught in run.stdout


def test_the_version_is_that_of_this_package(command) -> None:
    assert command("--version").stdout == f"speechforget {metadata.version('speechforget')}\n"


def test_a_reader_that_leaves_gets_no_stack_trace(tmp_path: Path) -> None:
    """As `speechforget explain | head -1`, also where the rest is written at the very end."""
    for words in (["--help"], ["explain"], ["store", "ls", str(tmp_path)]):
        line = [sys.executable, str(ROOT / "run.py"), *words]
        command = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert command.stdout is not None and command.stderr is not None
        command.stdout.close()
        said = command.stderr.read()
        command.wait(60)
        assert "Traceback" not in said and "BrokenPipe" not in said, said


def test_the_config_is_shown_without_torch(command) -> None:
    run = command("--cfg", "job", "method=salun", env={"PYTHONPATH": str(ROOT / "tests" / "support" / "no_torch")})
    assert run.returncode == 0, run.stderr
    assert "name: salun" in run.stdout


def refused(*overrides: str) -> str:
    """The sentence for overrides that cannot be right; composed in this process, which is quicker than a command."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=list(overrides))
        check(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    except Exception as error:
        sentence = explain(error)
        assert sentence is not None and "\n" not in sentence, overrides
        return sentence
    raise AssertionError(f"{overrides} are accepted")


def test_a_typo_in_a_group_names_what_there_is() -> None:
    for group in GROUPS:
        option = sorted(path.stem for path in (CONF / group).glob("*.yaml"))[0]
        assert f"'{option}'" in refused(f"{group}={option}x")


TYPOS = {
    "metod=scrub": "'method'",
    "task.numbr=2": "'task.number'",
    "dataset.hold_out=0.1": "'dataset.holdout'",
    "train.epoch=3": "'train.epochs'",
    "method.learning_rat=1": "'method.",
    "trainer.thread=1": "'trainer.threads'",
    "sed=1": "'seed'",
    "reprot": "did you mean 'report'?",
    "seed": "'seed' cannot be read: write name=value",
    "#": "'#'",
}


def test_a_typo_in_a_key_names_the_nearest() -> None:
    for argument, hint in TYPOS.items():
        assert hint in refused("seed=1", argument), argument


MISTAKES = {
    "seed=one": "seed must be a whole number",
    "method=ssd task.kind=clas": "'requests.clas.floor'",
    "task.kind=clas": "did you mean 'class'",
    "train.epochs=0": "train.epochs",
    "task.seed=one": "task.seed",
    "train.epochs=many": "train.epochs",
    "dataset.holdout=2": "dataset.holdout",
    "trainer.precision=8": "trainer.precision",
    "trainer.devices=0": "trainer.devices",
    "trainer.threads=100000": "at most 1024",
    "method.epochs=-2": "method.epochs must be a number from 0 on",
    "method.temperature=nan": "method.temperature must be a number from 0 on",
    "method=ssd method._target_=mine.Forget method.alpha=inf": "method.alpha must be finite, not inf",
    "only=unlearned": "oracle",
    "task=speaker": "as in task=sample task.by=speaker",
    "lock=nfs": "lease",
    "dataset.on_bad_audio=ignore": "on_bad_audio",
}


def test_a_mistake_in_a_value_is_one_sentence() -> None:
    for overrides, words in MISTAKES.items():
        assert words in refused(*overrides.split()), overrides


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task=sample", "task.percent=200", "trainer.devices=1"], "task.percent must be"),
        (["task=sample", "task.percent=200", "trainer.devices=2"], "task.percent must be"),
        (["metod=scrub"], "'method'"),
        (["#"], "'#'"),
        (["dataset=folder"], "dataset.root"),
        (["dataset=folder", "dataset.root=/no/such/folder"], "/no/such/folder"),
    ],
)
def test_a_mistake_ends_a_command_before_anything_is_made(
    arguments: list[str], words: str, command, tmp_path: Path
) -> None:
    assert words in one_sentence(command(*arguments, f"output={tmp_path / 'outputs'}"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts]


def test_an_output_that_cannot_be_written_is_one_sentence(command, small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = command(*small, f"output={tmp_path / 'file'}", f"cache={tmp_path / 'cache'}")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("Error: Cannot write to") and "output=" in run.stderr


def test_the_bench_compares_the_sweep_it_names() -> None:
    import argparse
    import runpy

    bench = runpy.run_path(str(ROOT / "scripts" / "bench.py"))
    methods = len(list((CONF / "method").glob("*.yaml")))
    jobs = bench["jobs_of"](argparse.Namespace(quick=False, seeds=2))
    assert len(jobs) == len({tuple(job) for job in jobs}) == 2 * methods * 2
    assert all(bench["config_of"](*job)["dataset"]["name"] == "espeak" for job in jobs[:2])


@pytest.mark.slow
def test_the_bench_compares_training_with_its_limit_and_the_usual_ways() -> None:
    words = [
        sys.executable,
        str(ROOT / "scripts" / "bench.py"),
        "train",
        "--quick",
        "--models",
        "tcresnet",
        "trainer.threads=1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"clips/s +\d+\.\d\d", done.stdout)) == 8


def test_a_large_sweep_is_checked_by_jobs_in_which_every_two_values_meet() -> None:
    from hydra_plugins.speechforget_launcher.sweeper import pairwise_cover

    sizes = {"model": 7, "method": 5, "task": 2, "task.percent": 10, "seed": 5}
    jobs = [
        list(job)
        for job in itertools.product(*([f"{name}={value}" for value in range(size)] for name, size in sizes.items()))
    ]
    chosen = list(pairwise_cover(jobs))
    assert 70 <= len(chosen) < 150
    met = {pair for job in chosen for pair in itertools.combinations(job, 2)}
    assert met == {pair for job in jobs for pair in itertools.combinations(job, 2)}
    assert list(pairwise_cover([["seed=0"], ["seed=1"]])) in ([["seed=0"], ["seed=1"]], [["seed=1"], ["seed=0"]])
    assert list(pairwise_cover([[]])) == [[]]


def test_a_mistake_in_one_job_of_a_sweep_shows_before_the_first_starts(tmp_path: Path, command) -> None:
    done = command("-m", "method=none,finetun", "experiment=smoke", f"output={tmp_path / 'out'}")
    assert done.returncode == 1 and "did you mean 'finetune'" in done.stderr
    assert not list((tmp_path / "out").glob("*/*/DONE"))


def test_a_job_that_fails_is_the_worst_trial_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's Optuna sweeper would end at an error, and at nan."""
    monkeypatch.setenv(SWEEP, str(tmp_path))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=["hydra.job.num=3"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    found = []
    for outcome in ((0.25, []), Diverged("It diverged."), NotApplicable("It is not defined.")):
        monkeypatch.setattr(command_line, "_run", Mock(side_effect=[outcome]))
        found.append((command_line._job_of_a_sweep(config), json.loads((tmp_path / "3.json").read_text())["outcome"]))
    assert found == [(0.25, "done"), (math.inf, "failed"), (math.inf, "not applicable")]


@pytest.mark.parametrize(("by", "numbers", "code", "runs"), [("random,speaker", "1,2", 0, 3), ("random", "2,3", 1, 0)])
def test_a_sweep_leaves_out_jobs_in_which_a_key_would_not_count(
    by: str, numbers: str, code: int, runs: int, command, small, tmp_path: Path
) -> None:
    words = [f"output={tmp_path}", "plan=true", "task=sample", f"task.by={by}", f"task.number={numbers}"]
    done = command("-m", *small, *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert (
        done.stderr.count("not applicable: ") == done.stderr.count("task.number has no effect with task.by=random") == 1
    )
    assert (f"Plan of {runs} runs" in done.stdout) == bool(runs)
    assert ("No job of the sweep is applicable" in done.stderr) == (not runs)


def test_a_swept_key_that_one_choice_lacks_names_the_choice(command, tmp_path: Path) -> None:
    assert "'method.alpha' with method=finetune: " in one_sentence(
        command("-m", "method=scrub,finetune", "method.alpha=1,2", f"output={tmp_path}")
    )


def test_the_home_folder_is_understood_behind_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    given = ["dataset.root=~/a b", "+x.y=~", "-m", "~method.epochs", "a=b~/c", "task.ids=list~.txt"]
    assert expand_home(given) == ["dataset.root=/home/anna/a b", "+x.y=/home/anna", *given[2:]]


def test_the_first_word_can_be_a_sub_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in SUBCOMMANDS:
        monkeypatch.setattr(sys, "argv", ["speechforget", name, "--help"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    assert str(Path.cwd()) in sys.path


def test_a_job_imports_this_checkout_but_needs_no_path_to_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/one:two")
    given = ["/one", str(Path("two").absolute())]
    assert python_path().split(":") == [str(ROOT), *given]
    installed = Path(sysconfig.get_path("purelib")).resolve()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(installed))
    monkeypatch.setattr("speechforget.__file__", str(installed / "speechforget" / "__init__.py"))
    assert python_path().split(":") == given
