"""Import torchaudio with any build of torch: everything else says `from speechforget._torchaudio import torchaudio`.

torchaudio 2.11 has a small compiled extension for one CUDA version. With a CPU build of torch, or another CUDA version,
its import fails. Only pure Python parts are used here, so the extension is then replaced by a stub and the import is
repeated. Only `rnnt_loss` and `forced_align` are lost.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def _no_alignment(function: Any) -> Any:
    """Replace torchaudio's decorator of functions that need the extension: they raise when they are called."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            f"torchaudio's {function.__name__} needs its compiled extension, which this torch cannot load"
        )

    return fail


def _without_extension() -> ModuleType:
    stub = ModuleType("torchaudio._extension")
    stub.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=_no_alignment,
    )
    return stub


try:
    import torchaudio
except (OSError, RuntimeError):
    sys.modules["torchaudio._extension"] = _without_extension()
    import torchaudio

__all__ = ["torchaudio"]
