"""The wheel: the command `speechforget` works from an installed package, in any folder, with the keys of a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("speechforget", "hydra_plugins", "conf", "pyproject.toml", "README.md", "LICENSE")
HALVE = """
import torch

class Halve(torch.nn.Module):
    '''A method of the user.'''
"""

Speechforget = Callable[..., subprocess.CompletedProcess[str]]


def succeed(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with speechforget from its wheel; only its dependencies come from the running one."""
    folder = tmp_path_factory.mktemp("wheel")
    for (
        name
    ) in SOURCES:  # a copy, since building writes into the source tree, and would ship what an earlier build left
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, True, shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    try:
        import setuptools  # noqa: F401

        here = ["--no-build-isolation"]
    except ImportError:
        here = []
    succeed([*pip, "wheel", "--no-deps", *here, "--wheel-dir", str(folder), str(folder / "source")])
    shutil.rmtree(folder / "source")
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    succeed([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)])
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def speechforget(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Speechforget:
    """speechforget(arguments ...) runs the installed command in one folder, empty at first, and succeeds."""
    folder = tmp_path_factory.mktemp("empty")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = succeed([str(environment / "speechforget"), *arguments], cwd=folder, env=variables)
        done.folder = folder  # type: ignore[attr-defined]
        return done

    return run


SMOKE = ("experiment=smoke", "trainer.threads=1", "logger=none")


def test_the_smoke_experiment_runs_and_has_the_keys_of_a_checkout(speechforget: Speechforget, command) -> None:
    done = speechforget(*SMOKE)
    output = done.folder / "outputs"  # type: ignore[attr-defined]
    assert "Result: " in done.stdout and len(list(output.glob("result/*/DONE"))) == 1
    assert '"commit": null' in next(output.glob("result/*/about.json")).read_text()
    assert "Everything exists." in command(*SMOKE, f"output={output}", "plan=true").stdout


def test_a_class_of_own_recordings_is_forgotten_and_reported(speechforget: Speechforget, small: list[str]) -> None:
    done = speechforget(*small, "task=class", "task.classes=[word1]", "method=finetune")
    assert "Result: " in done.stdout
    assert "finetune" in speechforget("report", "outputs").stdout
    assert (done.folder / "outputs" / "report.csv").exists()  # type: ignore[attr-defined]
    assert "original" in speechforget("store", "ls", "outputs").stdout


@pytest.mark.parametrize("launch", ["joblib", "submitit_local"])
def test_the_jobs_of_a_launcher_find_the_package(launch: str, speechforget: Speechforget) -> None:
    if launch == "submitit_local":
        pytest.importorskip("submitit")
    done = speechforget("-m", *SMOKE, f"launch={launch}", "launch.jobs_at_once=1", "method=none,finetune")
    assert done.stdout.count("  done ") == 2


def test_help_and_own_configurations_are_found(speechforget: Speechforget) -> None:
    folder = speechforget("--help").folder  # type: ignore[attr-defined]
    for name in ("my_conf", "other"):
        (folder / name / "method").mkdir(parents=True)
        (folder / name / "method" / f"{name}.yaml").write_text(f"name: {name}\n_target_: halve.Halve\n")
    (folder / "halve.py").write_text(HALVE)
    assert "name: my_conf" in speechforget("--cfg", "job", "method=my_conf").stdout
    assert "name: other" in speechforget("--cfg", "job", "method=other", "--config-dir", "other").stdout
