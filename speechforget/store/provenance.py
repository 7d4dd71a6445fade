"""Record where and with what an artefact was built; this is never part of its key."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

RECORDED_VERSIONS = ("speechforget", "torch", "torchaudio", "lightning", "numpy", "soundfile", "espeakng-loader")


def provenance() -> dict[str, Any]:
    """Return commit, versions, host and time, for `about.json`."""
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
    """Return the git commit of this package, with `-changed` if files differ from it; None outside a git clone."""
    folder = Path(__file__).resolve().parent
    if "site-packages" in folder.parts:  # an environment inside another project's checkout would name that one's commit
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=-changed", "--abbrev=12"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    return run.stdout.decode().strip() or None
