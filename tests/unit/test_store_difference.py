"""The first difference of two folders names file, position and both values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from speechforget.store.difference import first_difference

Case = tuple[str, Any, Any, float, str | None]


def save_text(path: Path, text: Any) -> None:
    path.write_text(text)


def save_tensor(path: Path, value: Any) -> None:
    save_file({"w": torch.tensor(value)}, path)


SAVE: dict[str, Callable[[Path, Any], None]] = {".npy": np.save, ".safetensors": save_tensor}
F32, F64, I32, I64 = np.float32, np.float64, np.int32, np.int64
# File, old and new content, tolerance, difference.
CASES: list[Case] = [
    ("a.npy", F32([1, 2]), F32([1, 2]), 0, None),
    ("a.npy", F32([0, 1]), F32([-0.0, 1]), 0, "[0] was 0.0, is -0.0; 1 of 2 values differ"),
    ("a.npy", F32([np.nan, 1]), F32([np.nan, 1]), 0, None),
    ("a.npy", F32([np.nan, 1]), F32([2, 1]), 0.1, "[0] was nan, is 2.0; 1 of 2 values differ"),
    ("a.npy", F64([1, 100]), F64([1.05, 100]), 1e-3, None),
    ("a.npy", F64([1, 100]), F64([1.2, 100]), 1e-3, "[0] was 1.0, is 1.2; 1 of 2 values differ"),
    ("a.npy", I64([[1], [3]]), I64([[1], [4]]), 0.9, "[1, 0] was 3, is 4; 1 of 2 values differ"),
    ("a.npy", I64([1]), I32([1]), 0, "was int64 (1,), is int32 (1,)"),
    ("w.safetensors", 1.0, 1.5, 0, "w[0] was 1.0, is 1.5; 1 of 1 values differ"),
    ("a.csv", "id,loss\nx,0.5\n", "id,loss\nx,0.50001\n", 0, "line 2, column loss was '0.5', is '0.50001'"),
    ("a.csv", "id,loss\nx,0.5\n", "id,loss\nx,0.50001\n", 1e-3, None),
    ("a.csv", "id,loss\nx,0.5\n", "id,loss\n", 1e-3, "had 2 lines, has 1"),
    ("a.json", '{"commit": "a", "b": {"c": [1, 2.0]}}', '{"commit": "b", "b": {"c": [1, 2.0]}}', 0, None),
    ("a.json", '{"cost": {"x": {"seconds": 1}}}', '{"cost": {"x": {"seconds": 2}}}', 0, None),
    ("a.json", '{"cost": {"x": {"forward": 1}}}', '{"cost": {"x": {"forward": 2}}}', 0, "cost.x.forward was 1, is 2"),
    ("a.json", '{"b": {"c": 1}}', '{"b": {"c": 2}}', 0, "b.c was 1, is 2"),
    ("cost.json", '{"seconds": 1, "forward": 3}', '{"seconds": 2, "forward": 3}', 0, None),
    ("cost.json", '{"shared": {"forward": 3}}', '{"shared": {"forward": 4}}', 0, "shared.forward was 3, is 4"),
    ("model.json", '{"seconds": 1}', '{"seconds": 2}', 0, "seconds was 1, is 2"),
    ("forget.txt", "a\nb\n", "a\nc\n", 0.5, "line 2 was b'b', is b'c'"),
]


def test_the_first_difference_is_named(tmp_path: Path) -> None:
    for number, (name, old, new, tolerance, difference) in enumerate(CASES):
        folders = tmp_path / f"{number} old", tmp_path / f"{number} new"
        for folder, value in zip(folders, (old, new), strict=True):
            folder.mkdir()
            SAVE.get(Path(name).suffix, save_text)(folder / name, value)
            (folder / "about.json").write_text(folder.name)
        wanted = None if difference is None else f"{name}: {difference}"
        assert first_difference(*folders, tolerance) == wanted, (name, old, new)
        (folders[1] / name).unlink()
        assert first_difference(*folders, tolerance) == f"{name} is missing now"
        assert first_difference(*reversed(folders), tolerance) == f"{name} is new"
