"""Find the first difference of two folders of one artefact, bit by bit or within a tolerance."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from speechforget.store.keys import differences
from speechforget.store.manifest import files_of

# Not compared: provenance, logs, and plots of numbers that are compared themselves.
SKIPPED_FILES = {"about.json", "inputs.json", "config.yaml"}
SKIPPED_SUFFIXES = {".png", ".log"}
# Entries of the JSON of a result or a model that are not compared.
SKIPPED_ENTRIES = re.compile(r"(versions|commit|model\.name)(\.|$)")
# Entries of a cost that are not compared; its passes are.
SKIPPED_COSTS = re.compile(r"(.*\.)?(seconds|machine|peak_memory_bytes|reused)(\.|$)")


def first_difference(old: Path, new: Path, tolerance: float = 0.0) -> str | None:
    """Return file, position and both values of the first difference of two folders; None if they are equal.

    tolerance: largest allowed difference, as a share of the largest absolute value in the array; in tables and JSON,
        `math.isclose` with this relative and absolute tolerance. 0 requires equal bits.
    """
    files = [{path.relative_to(folder).as_posix(): path for path in files_of(folder)} for folder in (old, new)]
    for name in sorted({*files[0], *files[1]}):
        if name in SKIPPED_FILES or Path(name).suffix in SKIPPED_SUFFIXES:
            continue
        if name not in files[0] or name not in files[1]:
            return f"{name} {'is new' if name in files[1] else 'is missing now'}"
        compare = {".safetensors": _tensors, ".npy": _array, ".csv": _table, ".json": _json, ".ckpt": _state}.get(
            Path(name).suffix, _text
        )
        found = next(compare(files[0][name], files[1][name], tolerance), None)
        if found is not None:
            return f"{name}: {found}"
    return None


def _tensors(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    from safetensors.torch import load_file

    yield from _named_tensors(load_file(old), load_file(new), tolerance)


def _state(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    """Compare the tensors of two states of a training: weights and what the optimiser remembers."""
    import torch

    read = [torch.load(path, map_location="cpu", weights_only=True) for path in (old, new)]
    held = [dict(_tensors_in({key: one[key] for key in ("state_dict", "optimizer_states")}, "")) for one in read]
    yield from _named_tensors(held[0], held[1], tolerance)


def _tensors_in(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every tensor in mappings and lists, with its path."""
    if isinstance(value, Mapping | list):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors_in(inner, f"{path}.{name}" if path else str(name))
    elif hasattr(value, "is_floating_point"):
        yield path, value


def _named_tensors(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            yield f"{name} {'is new' if name in after else 'is missing now'}"
            continue
        was, now = before[name].contiguous(), after[name].contiguous()
        if was.dtype != now.dtype or was.shape != now.shape:
            yield f"{name} was {was.dtype} {tuple(was.shape)}, is {now.dtype} {tuple(now.shape)}"
        elif was.is_floating_point():
            yield from _arrays(was.double().numpy(), now.double().numpy(), tolerance, name)
        else:
            yield from _arrays(was.numpy(), now.numpy(), tolerance, name)


def _array(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    was, now = np.load(old, mmap_mode="r"), np.load(new, mmap_mode="r")
    if was.dtype != now.dtype or was.shape != now.shape:
        yield f"was {was.dtype} {was.shape}, is {now.dtype} {now.shape}"
    else:
        yield from _arrays(was, now, tolerance, "")


def _arrays(was: np.ndarray, now: np.ndarray, tolerance: float, name: str) -> Iterator[str]:
    """Compare arrays of equal type and shape by their bits, including the sign of zero and NaN."""
    was, now = np.ascontiguousarray(was), np.ascontiguousarray(now)
    bits = [array.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize) for array in (was, now)]
    differ = (bits[0] != bits[1]).any(axis=1)
    if not differ.any():
        return
    indices = np.flatnonzero(differ)
    before, after = was.reshape(-1), now.reshape(-1)
    if tolerance and was.dtype.kind == "f":
        scale = float(np.nanmax(np.abs(before), initial=0.0, where=np.isfinite(before)))
        close = np.abs(before[indices].astype(np.float64) - after[indices]) <= tolerance * scale
        indices = indices[~close]
    if len(indices):
        index = tuple(int(number) for number in np.unravel_index(indices[0], was.shape))
        count = f"{len(indices)} of {was.size} values differ"
        yield f"{name}{list(index)} was {before[indices[0]].item()!r}, is {after[indices[0]].item()!r}; {count}"


def _table(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    rows = [list(csv.reader(path.open(encoding="utf-8", newline=""))) for path in (old, new)]
    header = rows[0][0] if rows[0] else []
    for number, (was, now) in enumerate(zip_longest(*rows)):
        if was is None or now is None:
            yield f"had {len(rows[0])} lines, has {len(rows[1])}"
            return
        for column, pair in enumerate(zip_longest(was, now, fillvalue="")):
            if not _near(*pair, tolerance):
                name = header[column] if column < len(header) else str(column)
                yield f"line {number + 1}, column {name} was {pair[0]!r}, is {pair[1]!r}"


def _json(old: Path, new: Path, tolerance: float) -> Iterator[str]:
    for path, before, after in differences(_read(old), _read(new)):
        is_cost = old.name == "cost.json" or path.startswith("cost.")
        if (SKIPPED_COSTS if is_cost else SKIPPED_ENTRIES).match(path):
            continue
        pairs = (
            zip(before, after, strict=True)
            if isinstance(before, list) and isinstance(after, list) and len(before) == len(after)
            else ()
        )
        if not (pairs and all(_near(*pair, tolerance) for pair in pairs)) and not _near(before, after, tolerance):
            yield f"{path} was {before!r}, is {after!r}"


def _read(path: Path) -> Mapping[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {"": found}


def _near(was: Any, now: Any, tolerance: float) -> bool:
    """Return whether two values, or texts of numbers, are equal or within the tolerance."""
    if was == now or repr(was) == repr(now):
        return True
    try:
        return bool(tolerance) and math.isclose(float(was), float(now), rel_tol=tolerance, abs_tol=tolerance)
    except (TypeError, ValueError):
        return False


def _text(old: Path, new: Path, _: float) -> Iterator[str]:
    for number, (was, now) in enumerate(
        zip_longest(old.read_bytes().split(b"\n"), new.read_bytes().split(b"\n")), start=1
    ):
        if was != now:
            yield f"line {number} was {was!r}, is {now!r}"
