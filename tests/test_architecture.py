"""The house rules that a machine can check: who imports whom, how long a file is, and what each yaml promises."""

import ast
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "speechforget"
FILES = sorted(PACKAGE.rglob("*.py"))
PARTS = ("data", "models", "methods", "evaluation")
STAGES = {"dividing", "training", "unlearning", "scoring", "pipeline", "planning", "building", "result", "fitting", "loading", "importing", "origin"}
HEAVY = {"torch", "torchaudio", "lightning", "matplotlib", "sklearn", "scipy", "wandb", "transformers", "peft", "speechbrain"}
LIGHT = ["command", "checks", "pipeline", "planning", "dividing", "store", "errors", "draws", "peers", "progress", "team", "tracking", "result"]
LIGHT += ["pretrained", "origin", "scores", "lookalikes", "printing"]


def imported(path: Path, top_level: bool = False) -> set[str]:
    """Every module that a file imports; only at its top level if asked."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    if top_level:
        nodes = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def part(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    mine = part(path)
    names = {name for name in imported(path) if name.startswith("speechforget")}
    if mine in PARTS:
        others = [name for name in names if name.split(".")[1:2] and name.split(".")[1] in (*PARTS, *STAGES, "report", "tracking", "launch", "store")]
        allowed = {"data": {"store"}}.get(mine, set())
        assert not [name for name in others if name.split(".")[1] not in {mine, *allowed}]
        assert not [name for name in imported(path) if name.split(".")[0] in {"hydra", "omegaconf", "lightning"}]
    if mine in {"store", "launch", "tracking", "mirror", "wandb_settings", "curves", "ranks", "peers"}:
        assert not [name for name in names if name.split(".")[1:2] and name.split(".")[1] in (*PARTS, *STAGES)]
    if mine == "evaluation":
        assert not imported(path) & {"torch", "pandas", "lightning"}
    if mine == "methods":
        assert {name.split(".")[0] for name in imported(path)} <= {
            "__future__",
            "collections",
            "typing",
            "dataclasses",
            "logging",
            "copy",
            "math",
            "itertools",
            "functools",
            "numpy",
            "torch",
            "speechforget",
        }


def file_of(module: str) -> Path:
    """The file of a module or a package of ours."""
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


def closure(module: str, seen: set[str]) -> None:
    """Modules of this package that importing `module` loads."""
    path = file_of(module)
    if module in seen or not path.exists():
        return
    seen.add(module)
    for name in imported(path, top_level=True):
        if name.startswith("speechforget"):
            closure(name, seen)


def test_a_cached_run_needs_nothing_heavy() -> None:
    seen: set[str] = set()
    for module in LIGHT:
        closure(f"speechforget.{module}", seen)
    for module in sorted(seen):
        path = file_of(module)
        assert not {name.split(".")[0] for name in imported(path, top_level=True)} & HEAVY, module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350


def test_torchaudio_is_imported_in_one_place() -> None:
    places = [path for path in FILES if any(name.split(".")[0] == "torchaudio" for name in imported(path))]
    assert [path.name for path in places] == ["torchaudio.py"]


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_fits_a_screen_and_bears_its_own_name(path: Path) -> None:
    config = OmegaConf.load(path)
    assert len(path.read_text().splitlines()) <= 50
    if "name" in config:
        assert config.name == path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "method").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_method_is_one_file_and_one_yaml(path: Path) -> None:
    """Or a yaml alone, where a switch makes another method of one."""
    config = OmegaConf.load(path)
    assert set(config.requests) <= {"sample", "class"} and config.requests
    assert len(config.requests) == 2 or config.reason
    if not set(config) & {"curriculum", "trainable"}:
        assert config._target_.startswith(f"speechforget.methods.{path.stem}.")


def test_text_files_are_utf_8_whatever_the_locale_says() -> None:
    """A label with an umlaut is read as it was written, also where the system's own encoding is another."""
    found = []
    for path in [*FILES, *(ROOT / "hydra_plugins").rglob("*.py")]:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        texts = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text")]
        found += [f"{path.name}:{call.lineno}" for call in texts if not {word.arg for word in call.keywords} & {"encoding", "errors"}]
    assert not found
