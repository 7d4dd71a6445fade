"""Read the score tables of a finished result again, joined by utterance, from files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.audio.cache import Audio
from speechforget.data.requests.select import NONE, Request, Rows
from speechforget.errors import UserError
from speechforget.evaluation.tables import Tables
from speechforget.record.folders import Outputs, read_json
from speechforget.record.request import read_list
from speechforget.stages.compare import join
from speechforget.stages.split import Data
from speechforget.store import Artefact, Store, verified

MOVED = "its {what} is not below this folder"


def read_tables(outputs: Outputs, folder: Path) -> tuple[Tables, NDArray[np.str_]]:
    """Return the score tables of a result without withdrawn utterances, and the id of each row.

    Speakers are known only if the corpus is where the run found it.
    Raises UserError if a file is missing or damaged: one sentence without a subject, which names what is not there.
    """
    result, inputs = read_json(folder / "result.json"), outputs.inputs(folder)
    scores = {name: _artefact(outputs, "scores", key) for name, key in inputs["scores"].items()}
    models = {name: _artefact(outputs, name.partition("-")[0], key) for name, key in inputs["models"].items()}
    key = outputs.inputs(scores["original"].folder)["split"]
    data = _data(_artefact(outputs, "split", key), outputs, folder)
    request = _request(folder, result, data.table["id"])
    tables = join(data, request, models, scores, int(result["seed"]))
    return tables, np.delete(data.table["id"].to_numpy(dtype=str), request.withdrawn)


def _artefact(outputs: Outputs, stage: str, key: str) -> Artefact:
    found = outputs.find(stage, key)
    if found is None:
        raise UserError(MOVED.format(what=f"{stage} {key[:12]}"))
    return Artefact(found, key, built=False)


def _data(split: Artefact, outputs: Outputs, folder: Path) -> Data:
    table = pd.read_csv(verified(split.folder, "utterances.csv"), dtype=str, keep_default_na=False)
    if (speakers := _speakers(read_json(folder / "about.json").get("config") or {}, folder)) is not None:
        table["speaker"] = table["id"].map(speakers).fillna("")
    audio = Audio(folder, folder, table, "", pd.DataFrame())
    return Data(
        audio,
        table,
        sorted(table["label"][table["subset"] == "train"].unique()),
        split.key,
        outputs.inputs(split.folder),
    )


def _speakers(config: Mapping[str, Any], folder: Path) -> Mapping[str, str] | None:
    """Map ids to speakers by the index of the corpus; None if it is elsewhere, or does not say who speaks."""
    from hydra.utils import instantiate

    if not config:
        return None
    dataset, cache = config["dataset"], cache_of(config, folder)
    root = dataset["root"]
    if not (Path(root) if root else cache / "espeak").exists():
        return None
    try:
        table = instantiate(dict(dataset["corpus"]), root=root, label=dataset["label"], cache=cache).table
    except (UserError, OSError):
        return None
    return dict(zip(table["id"], table["speaker"], strict=True)) if "speaker" in table else None


def cache_of(config: Mapping[str, Any], folder: Path) -> Path:
    """Return the cache of a run whose output folder may have moved since. folder: of its result."""
    usual = Path(config["cache"]) == Path(config["output"]) / "cache"
    return folder.parents[1] / "cache" if usual else Path(config["cache"])


def store_of(folder: Path) -> Store:
    """Return the store that holds the folder of a result."""
    return Store(folder.parents[1])


def _request(folder: Path, result: Mapping[str, Any], ids: pd.Series) -> Request:
    place = {identity: row for row, identity in enumerate(ids)}

    def rows(name: str, needed: bool = True) -> Rows:
        listed = read_list(folder, name)
        if listed is None and needed:
            raise UserError(MOVED.format(what=f"list {name}.txt"))
        return np.sort(np.array([place[each] for each in listed], dtype=np.int64)) if listed else NONE.copy()

    request = result["request"]
    withdrawn = rows("withdrawn", needed=False)
    return Request(rows("forget"), rows("nonmembers"), tuple(request["forgotten"]), str(request["name"]), withdrawn)
