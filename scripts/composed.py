"""Compose the config of a command line, and print the command line without this machine's paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from speechforget.config.validate import check

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("output", "cache", "logger")  # overrides that change no result


def config_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Compose and check the config of `python run.py overrides`. Raises what run.py explains in one sentence."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    return resolved


def told(overrides: Sequence[str]) -> str:
    """Write the overrides for publication: folders of recordings become FOLDER, paths of output are left out."""
    words = []
    for override in overrides:
        name = override.partition("=")[0]
        if name.partition(".")[0] not in PLACES:
            words.append(f"{name}=FOLDER" if name.endswith("root") else override)
    return " ".join(words)
