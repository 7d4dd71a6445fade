"""What scripts share that run many comparisons: the config of one, and its command line without places on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from speechforget.config.validate import check

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("output", "cache", "logger")  # where results go, which changes none of them


def config_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved config of `python run.py overrides`, checked. Raises what run.py would explain in one sentence."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    return resolved


def told(overrides: Sequence[str]) -> str:
    """The overrides as they may be published: folders of recordings are FOLDER, and places of output are left out."""
    words = []
    for override in overrides:
        name = override.partition("=")[0]
        if name.partition(".")[0] not in PLACES:
            words.append(f"{name}=FOLDER" if name.endswith("root") else override)
    return " ".join(words)
