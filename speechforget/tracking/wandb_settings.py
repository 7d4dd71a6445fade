"""W&B's settings of this machine and user, read without loading W&B; and names that W&B accepts."""

from __future__ import annotations

import configparser
import hashlib
import netrc
import os
import re
from pathlib import Path

API = "https://api.wandb.ai"
TAG, NAME = 64, 128  # characters of a tag, and of a run's, group's or project's name
FALSE = {"", "0", "false", "no", "none", "off"}


def stored_settings() -> dict[str, str]:
    """Read the settings files that `wandb offline` and similar commands write; those of the current folder win."""
    user = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    here = Path(os.environ.get("WANDB_DIR") or ".").expanduser()
    found: dict[str, str] = {}
    for path in (user / "settings", here / (".wandb" if (here / ".wandb").exists() else "wandb") / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
            found |= dict(parser["default"]) if parser.has_section("default") else {}
        except (OSError, ValueError, configparser.Error):
            continue  # W&B treats an unreadable file as empty
    return found


def told_mode() -> str | None:
    """Return online, offline or disabled, as set by W&B's variables, else by its files; None if neither sets it."""
    stored = stored_settings()
    if os.environ.get("WANDB_DISABLED", "").lower() not in FALSE:
        return "disabled"
    mode = os.environ.get("WANDB_MODE") or stored.get("mode")
    if not mode:
        return "disabled" if stored.get("disabled", "").lower() not in FALSE else None
    return {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}.get(mode.lower(), "online")


def base_url() -> str:
    """Return the URL of W&B's server."""
    return (os.environ.get("WANDB_BASE_URL") or stored_settings().get("base_url") or API).rstrip("/")


def api_key() -> str | None:
    """Return the key that W&B would log in with: from the environment, its settings or netrc; None if it would ask."""
    if key := os.environ.get("WANDB_API_KEY") or stored_settings().get("api_key"):
        return key
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(base_url().split("://")[-1].split("/")[0])
    except (OSError, netrc.NetrcParseError):
        return None
    return found[2] if found else None


def can_log_in() -> bool:
    """Say whether W&B could log in without asking."""
    return bool(api_key() or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"))


def shortened(name: str, most: int = NAME) -> str:
    """Return the name, or its start and a hash if it has more characters than W&B accepts."""
    return name if len(name) <= most else f"{name[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def project_name(project: str) -> str:
    """Replace each character that W&B does not accept in a project name by a hyphen."""
    return shortened(re.sub(r"[/\\#?%:]", "-", project))
