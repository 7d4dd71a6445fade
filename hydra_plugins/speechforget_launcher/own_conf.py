"""The user's own configuration: a folder `my_conf` where the command is given is searched behind speechforget's, as --config-dir my_conf would be."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class OwnConf(SearchPathPlugin):
    """Found by Hydra."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds the folder where there is one."""
        folder = Path.cwd() / "my_conf"
        if folder.is_dir():
            search_path.append("speechforget", f"file://{folder}")
