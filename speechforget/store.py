"""Content-addressed folders: what made an artefact is its name, and it is made once.

`produce` gives the folder of an artefact, building it first where it is missing. A folder without `DONE` was left by a process that died; the
next one takes it over. Locks are flock's, which the system frees with the process. Nothing here knows of speech.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from speechforget.errors import UserError

logger = logging.getLogger(__name__)

RECORDED_VERSIONS = ("speechforget", "torch", "torchaudio", "lightning", "numpy", "soundfile", "espeakng-loader")


@dataclass(frozen=True)
class Artefact:
    """A finished folder. key: 64 hexadecimal digits. built: whether this call made it."""

    folder: Path
    key: str
    built: bool

    @property
    def cost(self) -> dict[str, Any]:
        """What making it took, as recorded then (empty where nothing was)."""
        path = self.folder / "cost.json"
        return json.loads(path.read_text()) if path.exists() else {}


def canonical(value: Any) -> Any:
    """The same value in the one form that is hashed: sorted string keys, lists for tuples, 5 for 5.0."""
    if isinstance(value, Mapping):
        return {str(name): canonical(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def key_of(stage: str, inputs: Mapping[str, Any]) -> str:
    """sha256 of the stage's name and its inputs, 64 hexadecimal digits."""
    text = json.dumps(canonical({"stage": stage, "inputs": inputs}), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def produce(root: Path, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
    """The artefact of `stage` made of `inputs`; `build(folder, key)` fills its folder where it is missing or unfinished.

    name: readable words in front of the key's first digits; it identifies nothing.
    Raises UserError when a finished folder records other inputs than those asked for.
    """
    key = key_of(stage, inputs)
    folder = root / stage / f"{name}-{key[:12]}"
    if not (folder / "DONE").exists():
        make_folder(folder.parent)
        with locked(folder):
            if not (folder / "DONE").exists():
                _build(folder, stage, key, inputs, build)
                return Artefact(folder, key, built=True)
    _check(folder, stage, inputs)
    return Artefact(folder, key, built=False)


def make_folder(folder: Path) -> None:
    """Makes the folder and its parents. Raises UserError where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write to {folder} ({error.strerror}): choose another place with output=<folder>.") from error


def _build(folder: Path, stage: str, key: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> None:
    make_folder(folder)
    write_json(folder / "inputs.json", canonical({"stage": stage, "inputs": inputs}))
    build(folder, key)
    write_json(folder / "about.json", provenance())
    write_text(folder / "DONE", key + "\n")


def _check(folder: Path, stage: str, inputs: Mapping[str, Any]) -> None:
    try:
        recorded = json.loads((folder / "inputs.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} does not say what made it ({error}): remove it and run again.") from error
    asked = canonical({"stage": stage, "inputs": inputs})
    if recorded != asked:
        lines = "; ".join(f"{place}: recorded {old!r}, asked {new!r}" for place, old, new in differences(recorded, asked))
        raise UserError(f"{folder} was made of something else than is asked for ({lines}): remove it and run again.")


def differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, as (dotted place, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{place}.{name}".lstrip("."))
    elif old != new:
        yield place, old, new


@contextmanager
def locked(folder: Path, patience_s: float = 2.0) -> Iterator[None]:
    """Holds the lock beside `folder`; says whom it waits for, and since when, after `patience_s` seconds and then less and less often."""
    lock = FileLock(f"{folder}.lock")
    holder = Path(f"{folder}.holder")
    started, pause = time.monotonic(), patience_s
    while True:
        try:
            lock.acquire(timeout=pause)
            break
        except Timeout:
            who = holder.read_text().strip() if holder.exists() else "another process"
            logger.info("Waiting for %s, which %s is making (%.0f s so far).", folder.name, who, time.monotonic() - started)
            pause = min(pause * 2, 60.0)
    try:
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def code_hash(target: str) -> str:
    """Hash of the code behind a dotted name: the syntax trees of `code_modules`. Comments, docstrings and formatting do not count."""
    digest = hashlib.sha256()
    for module, path in code_modules(target).items():
        digest.update(module.encode() + _without_docstrings(ast.parse(path.read_text(encoding="utf-8"))).encode())
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
            waiting += _imports(ast.parse(path.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


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


def provenance() -> dict[str, Any]:
    """Commit, versions, host and time of a build: recorded beside an artefact, never part of its key."""
    versions: dict[str, str | None] = {}
    for package in RECORDED_VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **versions},
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def commit() -> str | None:
    """The commit that this package's checkout is at, with `-changed` where files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        run = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty=-changed", "--abbrev=12"], capture_output=True, check=False)
    except OSError:
        return None
    return run.stdout.decode().strip() or None
