"""Give Hydra the numbers of `tuned=NAME` for the run's own task and method, at composition.

A file of `tuned` holds numbers for many methods (`speechforget.config.tuned`). conf/config.yaml takes two configs from
it: `tuned/NAME` says what the numbers were found for, `tuned_entry/NAME/TASK/METHOD` holds the numbers. So --cfg job
shows them, the command line overrides them, and each job of a sweep gets its own.
"""

from __future__ import annotations

import functools
import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from speechforget.config.tuned import entry_of, is_nested


class TunedSource(ConfigSource):
    """Serve the files of `tuned` in all folders that Hydra searches."""

    search_path: ConfigSearchPath  # of the command at hand: --config-dir joins it later

    @staticmethod
    def scheme() -> str:
        """See `ConfigSource`."""
        return "tuned"

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.folders = [
            _folder(str(element.path))
            for element in self.search_path.get_path()
            if element.provider != "hydra" and _scheme(str(element.path)) in ("file", "pkg")
        ]

    def load_config(self, config_path: str) -> ConfigResult:
        """See `ConfigSource`."""
        config = OmegaConf.create(self._found(config_path))
        return ConfigResult(self.provider, self.full_path(), config, {"package": "_global_"})

    def is_group(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        return False

    def is_config(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        return self._found(config_path) is not None

    def available(self) -> bool:
        """See `ConfigSource`."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """See `ConfigSource`."""
        return []

    def _found(self, config_path: str) -> dict[str, Any] | None:
        match config_path.split("/"):
            case ["tuned", name]:
                content = self._content(name)
                return None if content is None else {"tuned_for": content["tuned_for"]}
            case ["tuned_entry", name, task, method]:
                content = self._content(name)
                return None if content is None else entry_of(content, task, method)
        return None

    def _content(self, name: str) -> dict[str, Any] | None:
        """Read the first file of this name, as Hydra does; None: no such file, or one that holds a single search."""
        for folder in self.folders:
            file = folder / "tuned" / f"{name.removesuffix('.yaml')}.yaml"
            if file.is_file():
                content = _parsed(file.read_text(encoding="utf-8"))
                return content if is_nested(content) else None
        return None


class TunedNumbers(SearchPathPlugin):
    """Make Hydra ask `TunedSource` first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See `SearchPathPlugin`."""
        TunedSource.search_path = search_path
        search_path.prepend("speechforget-tuned", f"{TunedSource.scheme()}://")


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """Parse a file once: Hydra asks for the same one several times."""
    return OmegaConf.to_container(OmegaConf.create(text))


def _scheme(path: str) -> str:
    return path.partition("://")[0] if "://" in path else "file"


def _folder(path: str) -> Traversable:
    if _scheme(path) == "file":
        return Path(path.removeprefix("file://"))
    package, *folders = path.removeprefix("pkg://").replace("/", ".").split(".")
    return importlib.resources.files(package).joinpath(*folders)
