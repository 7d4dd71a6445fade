"""The code behind a dotted name as part of a key: syntax trees of its module and of all that it imports, read and never run."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from speechforget.errors import UserError


def code_hash(target: str) -> str:
    """Hash of the code behind a dotted name: the syntax trees of `code_modules`. Comments, docstrings and formatting do not count."""
    digest = hashlib.sha256()
    for module, path in code_modules(target).items():
        digest.update(module.encode() + _read(path)[0].encode())
    return digest.hexdigest()


def code_modules(target: str) -> dict[str, Path]:
    """The module behind a dotted name and, of this package or its own, every module it imports: name -> file, sorted.

    Raises UserError when there is no such module.
    """
    first = _module_of(target)
    mine = {"speechforget", first.split(".")[0]}
    found: dict[str, Path] = {}
    waiting = [first]
    while waiting:
        current = waiting.pop()
        path = _source(current) if current.split(".")[0] in mine and current not in found else None
        if path is not None:
            found[current] = path
            waiting += sorted(_read(path)[1])
    return dict(sorted(found.items()))


def _read(path: Path) -> tuple[str, set[str]]:
    """What a file says, as text without docstrings, and what it imports."""
    return _parsed(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1024)
def _parsed(source: str) -> tuple[str, set[str]]:
    """By the text itself, so that no edit is missed; a sweep asks for the same files again and again."""
    tree = ast.parse(source)
    imports = _imports(tree)
    return _without_docstrings(tree), imports


def _module_of(target: str) -> str:
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if _source(module) is not None:
            return module
    raise UserError(f"There is no Python module behind '{target}': mend the _target_ in its yaml.")


def _source(module: str) -> Path | None:
    """The file of a module, found without importing anything (its package's `__init__` could be heavy)."""
    top, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    place = Path(found.origin)
    if not rest:
        return place
    if place.name != "__init__.py":
        return None
    stem = place.parent.joinpath(*rest)
    return next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)


def _imports(tree: ast.AST) -> set[str]:
    """Modules that a file imports; of `from package import module` the module, not the package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names |= {full if _source(full) else node.module for full in inside.values()}
    return names


def _without_docstrings(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value = ast.Constant("")
    return _dump(tree)


def _dump(node: Any) -> str:
    """A syntax tree as text, the same in every version of Python (`ast.dump` is not: fields came, and empty ones went)."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name in node._fields:
        value = getattr(node, name, None)
        absent = value is None and getattr(type(node), name, ...) is None
        if not absent and not (name == "type_params" and not value):
            fields.append(f"{name}={_dump(value)}")
    return f"{type(node).__name__}({', '.join(fields)})"
