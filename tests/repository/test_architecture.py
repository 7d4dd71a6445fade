"""The house rules that a machine can check: who imports whom, how long a file is, and what each yaml promises."""

import ast
import graphlib
import importlib
import re
import sys
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "speechforget"
sys.path.insert(0, str(ROOT / "scripts"))
architecture = importlib.import_module("architecture")
FILES = sorted(PACKAGE.rglob("*.py"))
# The floors, lowest first. A module imports from lower floors and from its own folder, deferred imports included.
FLOORS = (
    ("errors",),
    ("seeding", "progress", "terminal", "batch", "optimizers", "_torchaudio", "recognition"),
    ("store",),
    ("data", "evaluation"),
    ("config", "distributed"),
    ("models", "methods", "record"),
    ("tracking",),
    ("attacks", "explain", "inference", "report", "training"),
    ("stages",),
    ("page", "pipeline", "export"),
    ("cli",),
    ("launchers",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# A light process imports these: a run in which everything exists, a plan, `--help`.
LIGHT = ["pipeline", "cli.main", "cli.plan", "config.validate", "stages.split", "stages.score_files", "stages.compare"]
LIGHT += [
    "store",
    "tracking.loggers",
    "models.pretrained",
    "models.checkpoint",
    "models.lookalikes",
    "distributed.group",
]
HEAVY = {
    "torch",
    "torchaudio",
    "lightning",
    "matplotlib",
    "sklearn",
    "scipy",
    "wandb",
    "transformers",
    "peft",
    "speechbrain",
}
MOST_LOOSE = 10


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


def test_imports_go_down_one_floor_or_more() -> None:
    wrong = []
    for path in FILES:
        if str(path.relative_to(ROOT)) in architecture.SHORTCUTS:
            continue
        mine = part(path)
        for name in architecture.modules(path):
            other = name.split(".")[1] if "." in name else "__init__"
            if other != mine and other != "__init__" and FLOOR[other] >= FLOOR[mine]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_import_runs_in_a_circle() -> None:
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): architecture.modules(path) for path in FILES}
    graph = {name.removesuffix(".__init__"): others for name, others in graph.items()}
    sorter = graphlib.TopologicalSorter({name: others - {name} for name, others in graph.items()})
    sorter.prepare()  # raises CycleError with the circle


def test_few_modules_are_loose() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if path.stem != "__init__"]) <= MOST_LOOSE


LIBRARIES_OF = {
    "methods": {"numpy", "scipy", "torch"},
    "evaluation": {"numpy", "rapidfuzz", "scipy", "sklearn"},
    "attacks": {"numpy", "scipy", "sklearn", "torch"},
}
LIBRARIES_NOT_OF = {"data": {"hydra", "omegaconf", "lightning"}, "models": {"hydra", "omegaconf", "lightning"}}


def test_parts_use_their_own_libraries() -> None:
    wrong = []
    for path in FILES:
        names = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"speechforget"}
        allowed, forbidden = LIBRARIES_OF.get(part(path)), LIBRARIES_NOT_OF.get(part(path), set())
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names & forbidden]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names - (names if allowed is None else allowed)]
    assert not wrong


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


def test_files_stay_short() -> None:
    assert not [path.name for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 350]


def test_lines_of_pages_and_configs_are_short() -> None:
    """At most 120 characters, but for tables, code and pages that scripts write."""
    written = {"configuration.md", "metrics.md", "method_reference.md"}
    pages = [path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if path.name not in written]
    long = []
    for path in [*pages, *(ROOT / "conf").rglob("*.yaml")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("|")]
        long += [f"{path.name}: {line}" for line in lines if len(line) > 120]
    assert not long


def test_torchaudio_is_imported_in_one_place() -> None:
    places = [path for path in FILES if any(name.split(".")[0] == "torchaudio" for name in imported(path))]
    assert [path.name for path in places] == ["_torchaudio.py"]


def test_a_yaml_fits_a_screen_and_bears_its_own_name() -> None:
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        config = OmegaConf.load(path)
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 50 or path.parent.name == "tuned", path
        assert config.get("name", path.stem) == path.stem, path


def test_a_method_is_one_file_and_one_yaml() -> None:
    """Or a yaml alone, where a switch makes another method of one."""
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        config = OmegaConf.load(path)
        assert set(config.requests) <= {"sample", "class", "attribute"} and config.requests, path
        assert {"sample", "class"} <= set(config.requests) or config.reason, path
        if not set(config) & {"curriculum", "trainable"} and config.get("forget_teacher", "random") == "random":
            assert config._target_.startswith(f"speechforget.methods.{path.stem}."), path


def test_text_files_are_utf_8_whatever_the_locale_says() -> None:
    """A label with an umlaut is read as it was written, also where the system's own encoding is another."""
    found = []
    for path in [*FILES, *(ROOT / "hydra_plugins").rglob("*.py")]:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        texts = [
            call
            for call in calls
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text")
        ]
        found += [
            f"{path.name}:{call.lineno}"
            for call in texts
            if not {word.arg for word in call.keywords} & {"encoding", "errors"}
        ]
    assert not found
