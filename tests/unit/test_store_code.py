"""Keys contain the code that computes numbers: what counts, and in the keys of which stages."""

import functools
import runpy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from speechforget.config.inputs import code_of
from speechforget.store import code as store_code
from speechforget.store import code_hash, code_modules

ROOT = Path(__file__).parents[2]
table = runpy.run_path(str(ROOT / "scripts" / "code_table.py"))


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Paths of files that are read as if they were edited."""
    paths: set[Path] = set()
    look = store_code._found

    @functools.cache  # edits change no imports here, and a hash of a file tells edits of it as well as its text
    def found(targets: tuple[str, ...], stops: Any) -> dict[str, tuple[Path, str]]:
        return {name: (path, sha256(text.encode()).hexdigest()) for name, (path, text) in look(targets, stops).items()}

    def found_edited(targets: tuple[str, ...], stops: Any) -> dict[str, tuple[Path, str]]:
        modules = found(targets, stops)
        return {name: (path, f"{text} edited" if path in paths else text) for name, (path, text) in modules.items()}

    monkeypatch.setattr(store_code, "_found", found_edited)
    return paths


def test_an_edit_changes_the_keys_of_the_stages_that_the_table_names_and_no_others(edited: set[Path]) -> None:
    stages = {stage: (stage, *targets) for stage, targets in table["shipped"]().items()}
    before = {stage: code_of(*targets) for stage, targets in stages.items()}
    bare = {stage: code_of(stage) for stage in stages}
    found, expected = {}, table["table"]()
    for name in expected:
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        edited.add(path)
        always = tuple(stage for stage in stages if code_of(stage) != bare[stage])
        found[name] = (
            always,
            tuple(
                stage for stage, targets in stages.items() if stage not in always and code_of(*targets) != before[stage]
            ),
        )
        edited.clear()
    assert found == expected
    silent = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "speechforget").rglob("*.py")
    } - set(expected)
    edited |= {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in silent}
    assert {stage: code_of(*targets) for stage, targets in stages.items()} == before


def test_the_document_shows_this_table() -> None:
    """If it does not: python scripts/code_table.py"""
    assert table["text"]() in table["PAGE"].read_text(encoding="utf-8")


MODELS = {"original", "oracle", "importance", "unlearned"}


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("training.loop", MODELS),
        ("data.batches.streams", {*MODELS, "scores", "attack", "untrained"}),
        ("stages.train", {"original", "oracle"}),
        ("stages.unlearn", {"importance", "unlearned"}),
        ("distributed.batch_norm", {"original of a checkpoint", *MODELS, "scores", "attack", "untrained"}),
        ("data.audio.files", {"split", *MODELS, "scores", "attack", "untrained"}),
        ("stages.score", {"scores", "untrained"}),
        ("stages.attack", {"attack"}),
        ("evaluation.compare", {"power", "result", "sequence"}),
    ],
)
def test_what_computes_numbers_is_in_the_keys(module: str, stages: set[str]) -> None:
    assert set(table["table"]()[f"speechforget.{module}"].always) == stages


def hash_of(tmp_path: Path, files: dict[str, str], target: str) -> str:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return code_hash(target)


USERS = {
    "pack/__init__.py": "scale = 1",
    "pack/method.py": "import numpy\nfrom . import near\nfrom .deep.far import f\nfrom .star import *\n"
    "import beside, bare.inner\nfrom speechforget.seeding import order",
    "pack/near.py": "x = 1",
    "pack/deep/__init__.py": "",
    "pack/deep/far.py": "from ..up import g\nf = 1",
    "pack/up.py": "g = 1",
    "pack/star.py": "h = 1",
    "pack/not_imported.py": "i = 1",
    "beside.py": "def lazily():\n    import later\n",
    "later.py": "j = 1",
    "bare/inner.py": "k = 1",
}


def test_a_library_in_a_checkout_of_its_own_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_hash("speechforget.methods.scrub.Scrub")
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "torch.py": "x = 1",
        "safetensors.py": "y = 1",
        "mine.py": "import torch, numpy\nimport speechforget.methods.ssd",
    }
    hash_of(tmp_path, files, "mine.Forget")
    assert code_hash("speechforget.methods.scrub.Scrub") == first
    assert set(code_modules("mine.Forget")) > {"mine", "speechforget.methods.ssd"} and "torch" not in code_modules(
        "mine.Forget"
    )


@pytest.mark.parametrize("name", USERS)
def test_whatever_a_users_module_imports_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    first = hash_of(tmp_path, USERS, "pack.method.Forget")
    assert hash_of(tmp_path, {name: USERS[name] + "\n# a comment"}, "pack.method.Forget") == first
    assert (hash_of(tmp_path, {name: USERS[name] + "\nmore = 2\n"}, "pack.method.Forget") == first) == (
        name == "pack/not_imported.py"
    )
    found = set(code_modules("pack.method.Forget"))
    assert "speechforget.seeding" in found and not any(
        module.startswith(("numpy", "speechforget.errors")) for module in found
    )


WORDED = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import beside
def f(x):
    if x > 1:
        raise UserError(f"x is {x}: too large", hint="less") from None
    assert x, "no x"
    logger.warning("x is %s", x)
    print("x", x)
    error = UserError("later") or ValueError("wrong")
    x += AngularError("cosine", reduction="mean")(x)
    return x, "forget"
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("x is {x}: too large", "{x} is too large", False),
        ('"less"', '"fewer"', False),
        ("no x", "there is no x", False),
        ("x is %s", "of x: %s", False),
        ('print("x"', 'print("x:"', False),
        ("later", "sooner", False),
        ("wrong", "false", False),
        ("cosine", "sine", True),
        ('"mean"', '"sum"', True),
        ("import beside", "import later", False),
        ("x > 1", "x > 2", True),
        ("raise UserError", "raise NotApplicable", True),
        ('"forget"', '"retain"', True),
        ('print("x", x)', "x += 1", True),
        ("warning", "error", True),
    ],
)
def test_words_for_people_do_not_count(
    old: str, new: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert WORDED.count(old) == 1
    first = hash_of(tmp_path, {"worded.py": WORDED}, "worded.f")
    assert (hash_of(tmp_path, {"worded.py": WORDED.replace(old, new)}, "worded.f") != first) == counts
