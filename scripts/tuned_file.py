"""The files that hold the numbers of searches: one for a corpus, label and model (`speechforget.config.tuned`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from speechforget.config.tuned import NOT_BETTER, is_nested
from speechforget.errors import UserError
from speechforget.store import locked, write_text

SECTIONS = ("class", "sample")
HEAD = """\
# Numbers that scripts/tune.py found; it writes this file. Use them: python run.py tuned={name} method=... task=...
# objective: what the command minimises (default: mean absolute accuracy gap to the oracle), best and default.
# beside: the method's other numbers during the search. {not_better}: searches that did not beat the default.
"""


class _Flow(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Written in the order given, without references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Flow, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value.items(), flow_style=True)
)


def read(path: Path) -> dict[str, Any]:
    """Read a file of `tuned`; empty where there is none. Raises UserError for a file with another layout."""
    if not path.exists():
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not is_nested(content):
        raise UserError(f"{path} does not hold numbers by task and method: name another file with --name.")
    return content


def check_room(path: Path, found_for: Mapping[str, str], overwrite: bool) -> None:
    """Check that the entry of this task and method can be added to the file.

    found_for: task, method, dataset, label and model of the search; the fingerprint of its corpus where it is known.
    Raises UserError where the entry exists and `overwrite` is false, or the file is for another corpus, label or model.
    """
    content = read(path)
    for name, value in (content.get("tuned_for") or {}).items():
        if name in found_for and found_for[name] != value:
            other = "other recordings" if name == "corpus" else f"{name}={value}, not {found_for[name]}"
            raise UserError(f"{path} holds numbers for {other}: name another file with --name.")
    task, method = found_for["task"], found_for["method"]
    for section in (content, content.get(NOT_BETTER) or {}):
        if method in (section.get(task) or {}) and not overwrite:
            raise UserError(
                f"In {path}, an entry for method={method} task={task} exists: "
                "add --overwrite to replace it, or name another file with --name."
            )


def add(path: Path, found_for: Mapping[str, str], entry: Mapping[str, Any], better: bool, overwrite: bool) -> None:
    """Add or replace one entry and keep the others, whoever else writes into the file at the same time.

    better: whether the search beat the default; if not, the entry is listed in `not_better`.
    Raises UserError as `check_room` does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        check_room(path, found_for, overwrite)
        content = read(path) or {
            "tuned_for": {name: value for name, value in found_for.items() if name not in ("task", "method")}
        }
        task, method = found_for["task"], found_for["method"]
        for section in (content, content.setdefault(NOT_BETTER, {})):
            section.setdefault(task, {}).pop(method, None)
        (content if better else content[NOT_BETTER])[task][method] = dict(entry)
        write_text(path, text_of(path.stem, content))


def text_of(name: str, content: Mapping[str, Any]) -> str:
    """Write the file: tasks and methods in alphabetical order, each group of numbers on one line."""
    ordered = {"tuned_for": _Flow(content["tuned_for"]), **_sections(content)}
    if not_better := _sections(content.get(NOT_BETTER) or {}):
        ordered[NOT_BETTER] = not_better
    text = yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, width=90, allow_unicode=True)
    return HEAD.format(name=name, not_better=NOT_BETTER) + text


def _sections(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        task: {method: _flowing(entry) for method, entry in sorted(content[task].items())}
        for task in SECTIONS
        if content.get(task)
    }


def _flowing(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _Flow(value) if isinstance(value, Mapping) else value for name, value in entry.items()}
