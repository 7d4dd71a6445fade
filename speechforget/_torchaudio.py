"""The one place that imports torchaudio: everything else says `from speechforget._torchaudio import torchaudio`.

torchaudio 2.11 ships a small compiled extension built for one CUDA version: on a CPU build of torch, or beside another CUDA, importing it fails.
Everything used here is pure Python, so a stand-in for the extension is put in its place and the import tried again. What it costs:
`rnnt_loss` and `forced_align`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def _no_alignment(function: Any) -> Any:
    """Stands for torchaudio's decorator of functions that need the extension: they raise when they are called, not when they are defined."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            f"torchaudio's {function.__name__} needs its compiled extension, which this torch cannot load"
        )

    return fail


def _without_extension() -> ModuleType:
    stand_in = ModuleType("torchaudio._extension")
    stand_in.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=_no_alignment,
    )
    return stand_in


try:
    import torchaudio
except (OSError, RuntimeError):
    sys.modules["torchaudio._extension"] = _without_extension()
    import torchaudio

__all__ = ["torchaudio"]
