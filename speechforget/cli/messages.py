"""User mistakes as one sentence each, Hydra's and OmegaConf's errors included."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterable

from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speechforget.cli.arguments import CONF, SUBCOMMANDS
from speechforget.errors import RankError, UserError, nearest


def complain(error: BaseException) -> None:
    """Print one sentence for a user mistake, and the stack for an error of speechforget."""
    sentence = explain(error)
    if sentence is None:
        traceback.print_exception(error)
    else:
        print(f"Error: {sentence}", file=sys.stderr, flush=True)


def explain(error: BaseException) -> str | None:
    """Return one sentence for a user mistake; None for an error of speechforget."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "The disk is full: make room, then run the same command again; it resumes where this one stopped."
    if isinstance(error, RankError):
        return f"{error}. Finished work is kept: the same command resumes from there."
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's, which is not imported here
        return "The process of a job was killed (out of memory?): run the same command again; finished jobs are kept."
    if isinstance(error, HydraException) and isinstance(error.__cause__, (UserError, OSError)):
        return explain(error.__cause__)  # Hydra wraps errors of the functions that it calls
    return _explain_config(error) if isinstance(error, (HydraException, OmegaConfBaseException)) else None


def _explain_config(error: BaseException) -> str:
    if isinstance(error, OverrideParseException):
        return _explain_override(error.override)
    text = " ".join(str(error).split())
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if missing := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        options = re.findall(r"^\t(\S+)$", str(error).partition("Available options in")[2], flags=re.MULTILINE)
        by = "; task.by selects samples by a column, as in task=sample task.by=speaker" if missing[1] == "task" else ""
        return f"There is no {missing[1]}={missing[2]}: {nearest(missing[2], options)}{by}"
    if unknown := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        key = unknown[1]
        known = nearest(key, _known_keys(key, cause))
        return f"There is no configuration key '{key}'{_chosen(key, cause)}: {known}"
    if absent := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"The configuration refers to '{absent[1]}', which does not exist: --cfg job prints the line."
    return text.split(" full_key:")[0]


def _explain_override(word: str) -> str:
    sentence = f"'{word}' cannot be read: write name=value, and quote values that hold spaces or special characters"
    return f"{sentence}; sub-commands come first: {nearest(word, SUBCOMMANDS)}." if word.isalpha() else f"{sentence}."


def _chosen(key: str, cause: BaseException | None) -> str:
    """Name the choice that lacks the key, as in ' with method=finetune': other jobs of a sweep may have the key."""
    group, parent = key.rpartition(".")[0], getattr(cause, "parent_node", None)
    if not group or "." in group or parent is None or not OmegaConf.is_dict(parent):
        return ""
    name = parent.get("name") or parent.get("kind")
    return f" with {group}={name}" if name else ""


def _known_keys(key: str, cause: BaseException | None) -> Iterable[str]:
    """List the keys beside the unknown one; on the top level, the config groups too."""
    parent = getattr(cause, "parent_node", None)
    if parent is not None and OmegaConf.is_dict(parent):
        prefix = key.rpartition(".")[0]
        names = [str(name) for name in parent if name != "hydra"]
        return [f"{prefix}.{name}" if prefix else name for name in names]
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    return [*groups, "seed", "output", "cache", "plan", "only", "oracle", "original.checkpoint"]
