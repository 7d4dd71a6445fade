"""Search the folder `my_conf` in the current folder for configurations, as --config-dir my_conf does."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class OwnConf(SearchPathPlugin):
    """Extend the search path; Hydra finds and calls this."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add `my_conf` if it exists."""
        folder = Path.cwd() / "my_conf"
        if folder.is_dir():
            search_path.append("speechforget", f"file://{folder}")
