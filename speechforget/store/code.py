"""Hash the code behind dotted names for a key: the syntax trees of modules and of everything they import.

Modules are read and never run. Comments, docstrings, formatting and texts for people (raised, logged or printed) do not
count; neither do modules that compute no number.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from speechforget.errors import UserError

PACKAGE = "speechforget"
# Modules of this package that compute no number, with all modules below them, and what they do.
# No key contains them, or anything that only they import.
SILENT = {
    "speechforget.errors": "errors for users",
    "speechforget.progress": "progress bars",
    "speechforget.tracking": "keeps learning curves; mirrors curves and comparisons",
    "speechforget.report": "shows results",
    "speechforget.store": "stores artefacts",
    "speechforget.config.inputs": "lists the inputs of keys; the keys then contain them",
    "speechforget.training.cost_meter": "counts seconds and passes",
    "speechforget.models.lookalikes": "errors about folders that hold no model",
    "speechforget.training.machine": "records the machine that seconds were measured on",
    "speechforget.terminal": "formats text for terminals",
    "speechforget.training.runtime": "tunes memory and threads of a process",
    "speechforget.distributed.protocol": "messages between processes",
    "speechforget.distributed.rendezvous": "lets processes find each other",
    "speechforget.distributed.group": "starts and ends processes",
    "speechforget.distributed.worker": "starts and ends processes",
}
# Never followed, even if installed from a local clone: their versions are recorded instead.
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
# Calls with texts for people. Names that merely end in "Error" do not count, because a loss may have such a name.
SPOKEN = {"print", "warn", "UserError", "NotApplicable", "ValueError", "TypeError", "RuntimeError"}
SPEAKERS = {"logger", "logging"}

# Level, module, names; `import a.b` has no names.
Import = tuple[int, str, tuple[str, ...]]


def code_hash(*targets: str, stops: Collection[str] = ()) -> str:
    """Hash the syntax trees of `code_modules`."""
    digest = hashlib.sha256()
    for module, (_, tree) in _found(targets, stops).items():
        digest.update(module.encode() + tree.encode())
    return digest.hexdigest()


def code_modules(*targets: str, stops: Collection[str] = ()) -> dict[str, Path]:
    """Return the modules behind dotted names and all modules they import, as {name: file}, sorted by name.

    Installed packages and SILENT modules are left out.
    stops: modules of this package that are not followed from within it.
    Raises UserError if there is no such module.
    """
    return {module: path for module, (path, _) in _found(targets, stops).items()}


def _found(targets: Collection[str], stops: Collection[str]) -> dict[str, tuple[Path, str]]:
    """See `code_modules`; with each file the text of its syntax tree."""
    waiting = [_module_of(target) for target in targets]
    mine = frozenset({PACKAGE, *(module.partition(".")[0] for module in waiting)})
    source = functools.cache(functools.partial(_source, mine=mine))  # each name is looked up once, in this call only
    found: dict[str, tuple[Path, str]] = {}
    while waiting:
        current = waiting.pop()
        path = None if current in found or is_silent(current) else source(current)
        if path is None:
            continue
        tree, statements = _read(path)
        found[current] = path, tree
        ours = current.partition(".")[0] == PACKAGE
        reached = [name for each in statements for name in _reached(each, current, path, source)]
        waiting += [name for name in reached if not ours or (name.partition(".")[0] == PACKAGE and name not in stops)]
        # Importing a module also runs the packages around it. Those of this package are empty.
        if not ours:
            waiting += [current.rsplit(".", count)[0] for count in range(1, current.count(".") + 1)]
    return dict(sorted(found.items()))


def is_silent(module: str) -> bool:
    """Return whether a module of this package computes no number."""
    return any(module == name or module.startswith(f"{name}.") for name in SILENT)


def _reached(statement: Import, importer: str, path: Path, source: Callable[[str], Path | None]) -> Iterator[str]:
    """Yield the modules that an import statement loads. source: `_source` for the packages that count.

    For `from package import module` these are the module and the package, unless the package is this one.
    """
    level, module, names = statement
    if level:
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - level + 1]
        module = ".".join([*parts, *([module] if module else [])])
    file = source(module)
    single = file is not None and file.name != "__init__.py"  # no package: what is imported from it are names
    inside = [full for name in names if not single and source(full := f"{module}.{name}") is not None]
    yield from inside
    if len(inside) < len(names) or not names:
        yield module


def _module_of(target: str) -> str:
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if _source(module, frozenset(parts[:1])) is not None:
            return module
    raise UserError(f"There is no Python module behind '{target}': correct the _target_ in its yaml.")


def _source(module: str, mine: frozenset[str]) -> Path | None:
    """Find the file of a module without importing anything, because an `__init__` may be slow.

    None if it has no file. Also None for installed packages unless their first name is in `mine`: for those the version
    is recorded, not the code.
    """
    top, *rest = module.split(".")
    found = _top_level(top, tuple(sys.path), top in mine)
    if found is None or not rest:
        return found if found is None or found.is_file() else None
    if found.name not in {"__init__.py", top}:
        return None
    stem = (found.parent if found.name == "__init__.py" else found).joinpath(*rest)
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


_top_levels: dict[tuple[str, tuple[str, ...]], Path] = {}


def _top_level(top: str, search_path: tuple[str, ...], installed: bool) -> Path | None:
    """Find the file of a top-level module, or the folder of a package without `__init__`.

    search_path: `sys.path`. installed: whether installed packages count.
    """
    if top in sys.stdlib_module_names or (top in LIBRARIES and not installed):
        return None
    path = _top_levels.get((top, search_path))
    if path is None or not path.exists():
        try:
            found = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        if found is None:
            return None
        folders = found.submodule_search_locations or ()
        path = next((Path(folder) for folder in folders), Path("none")) if found.origin is None else Path(found.origin)
        _top_levels[top, search_path] = path
    if (path.suffix != ".py" and not path.is_dir()) or (not installed and _is_installed(path)):
        return None
    return path


@functools.lru_cache(maxsize=1024)
def _is_installed(path: Path) -> bool:
    library = sysconfig.get_path("stdlib")
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or path.is_relative_to(library)


def _read(path: Path) -> tuple[str, tuple[Import, ...]]:
    """Read a file: its syntax tree as text, without docstrings and texts for people, and its imports."""
    return _parsed(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1024)
def _parsed(source: str) -> tuple[str, tuple[Import, ...]]:
    """Parse source text. Cached by the text, not the path: a sweep reads the same files again, and misses no edit."""
    imports: list[Import] = []
    return _dump(ast.parse(source), imports), tuple(dict.fromkeys(imports))


def _dump(node: Any, imports: list[Import], spoken: bool = False) -> str:
    """Write a syntax tree as text, and append its imports to `imports`.

    The text is the same in every version of Python. `ast.dump` is not: new versions add fields and drop empty ones.
    spoken: whether the texts inside are for people and do not count.
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
    """Return whether the texts in a field of a node are for people. Names never are."""
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
