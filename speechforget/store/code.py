"""The code behind dotted names as part of a key: syntax trees of their modules and of all that these import, read and never run.

Comments, docstrings, formatting and words for people (what is raised, logged, printed) do not count, nor do modules that compute no number.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from speechforget.errors import UserError

PACKAGE = "speechforget"
# Of this package, what computes no number, with all below it, and why. Nothing of it is in a key, nor what it alone imports.
SILENT = {
    "speechforget.errors": "sentences for users",
    "speechforget.progress": "progress bars",
    "speechforget.tracking": "keeps learning curves, and mirrors them and comparisons",
    "speechforget.report": "shows results",
    "speechforget.store": "keeps artefacts",
    "speechforget.config.inputs": "says what is in keys, which then hold it themselves",
    "speechforget.training.cost_meter": "counts seconds and passes",
    "speechforget.models.lookalikes": "sentences about folders that hold something else than a model",
    "speechforget.training.machine": "says where seconds were spent",
    "speechforget.terminal": "text for terminals",
    "speechforget.training.runtime": "memory and idle threads of a process",
    "speechforget.distributed.rendezvous": "meeting place of processes",
    "speechforget.distributed.group": "starts and ends processes",
    "speechforget.distributed.worker": "starts and ends processes",
}
# Never followed, even where they are worked on in a checkout of their own: their versions are recorded.
LIBRARIES = {
    "torch",
    "torchaudio",
    "lightning",
    "transformers",
    "peft",
    "speechbrain",
    "numpy",
    "scipy",
    "pandas",
    "sklearn",
    "hydra",
    "omegaconf",
}
# Calls whose words are for people even where nothing is raised: not all that are called ...Error, as losses may be, too.
SPOKEN = {"print", "warn", "UserError", "NotApplicable", "ValueError", "TypeError", "RuntimeError"}
SPEAKERS = {"logger", "logging"}

Import = tuple[int, str, tuple[str, ...]]  # level, module, names: of `import a.b` there are no names


def code_hash(*targets: str, stops: Collection[str] = ()) -> str:
    """Hash of the code behind dotted names: the syntax trees of `code_modules`."""
    digest = hashlib.sha256()
    for module, path in code_modules(*targets, stops=stops).items():
        digest.update(module.encode() + _read(path)[0].encode())
    return digest.hexdigest()


def code_modules(*targets: str, stops: Collection[str] = ()) -> dict[str, Path]:
    """The modules behind dotted names and every module they import, but for installed packages and SILENT ones: name -> file, sorted.

    stops: modules of this package that are not followed from within it.
    Raises UserError when there is no such module.
    """
    waiting = [_module_of(target) for target in targets]
    mine = frozenset({PACKAGE, *(module.partition(".")[0] for module in waiting)})
    found: dict[str, Path] = {}
    while waiting:
        current = waiting.pop()
        path = None if current in found or is_silent(current) else _source(current, mine)
        if path is None:
            continue
        found[current] = path
        ours = current.partition(".")[0] == PACKAGE
        reached = [name for each in _read(path)[1] for name in _reached(each, current, path, mine)]
        waiting += [name for name in reached if not ours or (name.partition(".")[0] == PACKAGE and name not in stops)]
        if not ours:  # importing a module runs its packages, too; those of this package hold nothing
            waiting += [current.rsplit(".", count)[0] for count in range(1, current.count(".") + 1)]
    return dict(sorted(found.items()))


def is_silent(module: str) -> bool:
    """Whether a module of this package computes no number."""
    return any(module == name or module.startswith(f"{name}.") for name in SILENT)


def _reached(statement: Import, importer: str, path: Path, mine: frozenset[str]) -> Iterator[str]:
    """The modules that an import statement names; of `from package import module` the module and the package, unless that is this one's."""
    level, module, names = statement
    if level:
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - level + 1]
        module = ".".join([*parts, *([module] if module else [])])
    inside = [full for name in names if _source(full := f"{module}.{name}", mine) is not None]
    yield from inside
    if len(inside) < len(names) or not names:
        yield module


def _module_of(target: str) -> str:
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if _source(module, frozenset(parts[:1])) is not None:
            return module
    raise UserError(f"There is no Python module behind '{target}': mend the _target_ in its yaml.")


def _source(module: str, mine: frozenset[str]) -> Path | None:
    """The file of a module, found without importing anything (its package's `__init__` could be heavy).

    None where it has none, and for what is installed unless its first name is in `mine`: of that the version is recorded, not the code.
    """
    top, *rest = module.split(".")
    place = _place(top, tuple(sys.path), top in mine)
    if place is None or not rest:
        return place if place is None or place.is_file() else None
    if place.name not in {"__init__.py", top}:
        return None
    stem = (place.parent if place.name == "__init__.py" else place).joinpath(*rest)
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


_places: dict[tuple[str, tuple[str, ...]], Path] = {}


def _place(top: str, where: tuple[str, ...], installed: bool) -> Path | None:
    """The file of a module that is no part of another, or the folder of one without `__init__`.

    where: `sys.path`. installed: whether it may be an installed one.
    """
    if top in sys.stdlib_module_names or (top in LIBRARIES and not installed):
        return None
    place = _places.get((top, where))
    if place is None or not place.exists():
        try:
            found = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        if found is None:
            return None
        folders = found.submodule_search_locations or ()
        place = next((Path(folder) for folder in folders), Path("none")) if found.origin is None else Path(found.origin)
        _places[top, where] = place
    if (place.suffix != ".py" and not place.is_dir()) or (not installed and _is_installed(place)):
        return None
    return place


@functools.lru_cache(maxsize=1024)
def _is_installed(path: Path) -> bool:
    library = sysconfig.get_path("stdlib")
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or path.is_relative_to(library)


def _read(path: Path) -> tuple[str, tuple[Import, ...]]:
    """What a file says, as text without docstrings and words for people, and what it imports."""
    return _parsed(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1024)
def _parsed(source: str) -> tuple[str, tuple[Import, ...]]:
    """By the text itself, so that no edit is missed; a sweep asks for the same files again and again."""
    imports: list[Import] = []
    return _dump(ast.parse(source), imports), tuple(dict.fromkeys(imports))


def _dump(node: Any, imports: list[Import], spoken: bool = False) -> str:
    """A syntax tree as text, the same in every version of Python (`ast.dump` is not: fields came, and empty ones went), noting imports.

    spoken: whether texts are for people, and do not count.
    """
    if isinstance(node, list):
        return f"[{', '.join([_dump(item, imports, spoken) for item in node])}]"
    if not isinstance(node, ast.AST):
        return "''" if spoken and isinstance(node, str) else repr(node)
    if isinstance(node, ast.Constant):
        return f"Constant(value={'' if spoken and isinstance(node.value, str) else repr(node.value)})"
    kind = type(node)
    if spoken and kind is ast.JoinedStr:
        return "Constant(value=)"
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return _dump(node.orelse, imports)
    if isinstance(node, ast.Import):
        imports.extend((0, alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        imports.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    fields = []
    for name in node._fields:
        value = getattr(node, name, None)
        if (
            name == "body"
            and isinstance(value, list)
            and value
            and isinstance(value[0], ast.Expr)
            and isinstance(value[0].value, ast.Constant)
        ):
            value = [ast.Expr(ast.Constant("")), *value[1:]]
        elif (value is None and getattr(kind, name, ...) is None) or (name == "type_params" and not value):
            continue
        fields.append(f"{name}={_dump(value, imports, _is_spoken(node, name, spoken))}")
    return f"{kind.__name__}({', '.join(fields)})"


def _is_spoken(node: ast.AST, field: str, spoken: bool) -> bool:
    """Whether the texts of a node's field are for people: names never are."""
    if isinstance(node, ast.Raise):
        return True
    if isinstance(node, ast.Assert):
        return field == "msg"
    if isinstance(node, (ast.Name, ast.Attribute, ast.keyword)) and field in {"id", "attr", "arg"}:
        return False
    if isinstance(node, ast.Call) and field in {"args", "keywords"}:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        owner = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
        return spoken or name in SPOKEN or owner in SPEAKERS
    return spoken
