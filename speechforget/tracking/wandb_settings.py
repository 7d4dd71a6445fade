"""What W&B has been told about this machine and this user, read without loading it: variables, its files of settings, keys; and names it takes."""

from __future__ import annotations

import configparser
import hashlib
import netrc
import os
import re
from pathlib import Path

API = "https://api.wandb.ai"
TAG, NAME = 64, 128  # characters of a tag, and of a run's, group's or project's name
UNTOLD = {"", "0", "false", "no", "none", "off"}


def stored_settings() -> dict[str, str]:
    """The settings of W&B's files, as `wandb offline` and its siblings write them; those of the current folder go before the user's own."""
    user = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    here = Path(os.environ.get("WANDB_DIR") or ".").expanduser()
    found: dict[str, str] = {}
    for path in (user / "settings", here / (".wandb" if (here / ".wandb").exists() else "wandb") / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
            found |= dict(parser["default"]) if parser.has_section("default") else {}
        except (OSError, ValueError, configparser.Error):
            continue  # W&B itself takes a file that it cannot read for an empty one
    return found


def told_mode() -> str | None:
    """online, offline or disabled, as W&B's variables say, else its files; None where none of them says so."""
    stored = stored_settings()
    if os.environ.get("WANDB_DISABLED", "").lower() not in UNTOLD:
        return "disabled"
    mode = os.environ.get("WANDB_MODE") or stored.get("mode")
    if not mode:
        return "disabled" if stored.get("disabled", "").lower() not in UNTOLD else None
    return {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}.get(mode.lower(), "online")


def base_url() -> str:
    """Where W&B's server is."""
    return (os.environ.get("WANDB_BASE_URL") or stored_settings().get("base_url") or API).rstrip("/")


def api_key() -> str | None:
    """The key that W&B would log in with: of the environment, its settings or the netrc file; None where it would have to ask."""
    if key := os.environ.get("WANDB_API_KEY") or stored_settings().get("api_key"):
        return key
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(base_url().split("://")[-1].split("/")[0])
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def can_log_in() -> bool:
    """Whether W&B could log in without asking."""
    return bool(api_key() or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))


def shortened(name: str, most: int = NAME) -> str:
    """The name, or its beginning and a hash of the whole where it has more characters than W&B takes."""
    return name if len(name) <= most else f"{name[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def project_name(project: str) -> str:
    """The name with a hyphen for each sign that W&B takes in no project's name."""
    return shortened(re.sub(r"[/\\#?%:]", "-", project))
