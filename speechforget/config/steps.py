"""Which runs a config stands for: one, or one for each request of a sequence; and what its original has forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.data.requests.past import FORGOTTEN, MARK
from speechforget.data.requests.steps import is_sequence, with_earlier
from speechforget.errors import UserError
from speechforget.store.files import read_json
from speechforget.store.manifest import DONE, read_done

TRAINED_WITHOUT = ("oracle", "unlearned")  # stages whose models have forgotten something


def step_configs(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the config of each request of a sequence, in their order; the config itself for one request."""
    config = with_past(config)
    if not is_sequence(config["task"]):
        return [config]
    return [{**config, "task": task} for task in with_earlier(config["task"])]


def at_once(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that unlearns all requests of a sequence as one."""
    config = with_past(config)
    return {**config, "task": {**config["task"], "at_once": True}}


def config_before(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the config of the run whose model is the original of this one; None if no request of a run was before."""
    task = config["task"]
    *first, last = task.get("after") or [None]
    if not isinstance(last, Mapping):
        return None
    return {**config, "task": {**last, "after": first or None}}


def is_continued(config: Mapping[str, Any]) -> bool:
    """Return whether a request of this config comes after another one."""
    task = config["task"]
    asked = bool(task.get("after")) or is_sequence(task)
    return asked or config["original"].get("result") is not None


def with_past(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name in `task.after` where to read what the original has forgotten, unless the user named it.

    Raises UserError for a model that has forgotten something and does not say what.
    """
    task, original = config["task"], config["original"]
    place = original.get("result") or original["checkpoint"]
    if task.get("after") is not None or place is None:
        return dict(config)
    found = place if original.get("result") else _past_of_model(Path(str(place)).expanduser())
    return dict(config) if found is None else {**config, "task": {**task, "after": [str(found)]}}


def _past_of_model(folder: Path) -> Path | None:
    """Return where the requests of a model are listed: beside it, or in a result that compared it."""
    if (folder / FORGOTTEN).exists():
        return folder
    made, count = read_json(folder / "inputs.json"), read_json(folder / "model.json").get(MARK)
    if made.get("stage") not in TRAINED_WITHOUT and not (made.get("inputs") or {}).get("without") and not count:
        return None
    key = (read_done(folder) or {}).get("key")
    for result in sorted(folder.absolute().parent.parent.glob("result/*")):
        models = (read_json(result / "inputs.json").get("inputs") or {}).get("models") or {}
        if key is not None and key in models.values() and (result / DONE).exists():
            return result
    told = f"{count} requests" if count else "a request"
    raise UserError(
        f"The model {folder} has forgotten {told}, and its {FORGOTTEN} is missing, so the recordings would be taught "
        "again: copy that file beside it, or set task.after=[FILE] to a list of the ids that are gone."
    )
