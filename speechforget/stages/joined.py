"""Join the score tables of a finished result again, from files alone: no corpus, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from speechforget.data.audio.cache import Audio
from speechforget.data.requests.attribute import KIND, Attribute
from speechforget.data.requests.past import EARLIER, Past, past_of, read_earlier
from speechforget.data.requests.request import VALUES
from speechforget.data.requests.select import NONE, Request, Rows
from speechforget.data.transcripts import classes_of
from speechforget.errors import UserError
from speechforget.evaluation.tables import Tables
from speechforget.record.folders import Outputs
from speechforget.record.request import read_list
from speechforget.stages.compare import SPEAKERS, join, read_groups
from speechforget.stages.split import Data
from speechforget.store import Artefact, verified
from speechforget.store.files import read_json


class NotHere(UserError):  # noqa: N818
    """Signal that a file of a result is not below the folder; the text says which, without a subject."""


class Joined(NamedTuple):
    """Hold what a result was computed from: the split, the request, and its models and score tables by name.

    untrained: models of random weights, if a metric compared with them. groups: columns whose values are compared.
    """

    result: dict[str, Any]
    data: Data
    request: Request
    models: dict[str, Artefact]
    scores: dict[str, Artefact]
    untrained: Artefact | None = None
    groups: tuple[str, ...] = ()

    @property
    def tables(self) -> Tables:
        """Return the joined score tables, without withdrawn utterances."""
        seed = int(self.result["seed"])
        return join(self.data, self.request, self.models, self.scores, seed, self.untrained, self.groups)


def read_tables(outputs: Outputs, folder: Path) -> tuple[Tables, NDArray[np.str_]]:
    """Return the score tables of a result without withdrawn utterances, and the id of each row.

    Raises NotHere if a file is missing, UserError if one is damaged.
    """
    joined = read_joined(outputs, folder)
    return joined.tables, np.delete(joined.data.table["id"].to_numpy(dtype=str), joined.request.withdrawn)


def read_joined(outputs: Outputs, folder: Path) -> Joined:
    """Read what a result was computed from. Raises NotHere if a part is missing, UserError if one is damaged."""
    result, inputs = read_json(folder / "result.json"), outputs.inputs(folder)
    scores = {name: artefact(outputs, "scores", key) for name, key in in_order(inputs["scores"])}
    models = {name: artefact(outputs, name.partition("-")[0], key) for name, key in in_order(inputs["models"])}
    key = outputs.inputs(scores["original"].folder)["split"]
    groups = read_groups(folder)
    data = _data(artefact(outputs, "split", key), outputs, folder, groups)
    drawn = artefact(outputs, "untrained", inputs["untrained"]) if "untrained" in inputs else None
    request = request_of(folder, result, data.table)
    return Joined(result, data, request, models, scores, drawn, tuple(groups.columns))


def in_order(named: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return models by their seeds, those of the run first, as the run compared them; inputs are sorted as text."""

    def seed(name: str) -> int:
        digits = name.rpartition("-seed")[2]
        return int(digits) if digits.isdigit() else -1

    return sorted(named.items(), key=lambda each: seed(each[0]))


def artefact(outputs: Outputs, stage: str, key: str) -> Artefact:
    """Find an artefact. Raises NotHere if it is not below the folder."""
    found = outputs.find(stage, key)
    if found is None:
        raise NotHere(f"the {stage} {key[:12]} is not below this folder")
    return Artefact(found, key, built=False)


def _data(split: Artefact, outputs: Outputs, folder: Path, groups: pd.DataFrame) -> Data:
    table = pd.read_csv(verified(split.folder, "utterances.csv"), dtype=str, keep_default_na=False)
    if (speakers := _speakers(folder, table["id"])) is not None:
        table["speaker"] = speakers
    table[list(groups.columns)] = groups
    audio = Audio(folder, folder, table, "", pd.DataFrame())
    return Data(audio, table, classes_of(table), split.key, outputs.inputs(split.folder))


def _speakers(folder: Path, ids: pd.Series) -> list[str] | None:
    """Read who speaks in each row; None if the corpus does not say. Results of older code need their corpus."""
    if not (folder / SPEAKERS).exists():
        known = _indexed_speakers(folder)
        return None if known is None else [known.get(identity, "") for identity in ids]
    lines = verified(folder, SPEAKERS).read_text(encoding="utf-8").split("\n")[:-1]
    return lines or None


def _indexed_speakers(folder: Path) -> Mapping[str, str] | None:
    """Map ids to speakers by the index of the corpus, where the run found it."""
    from hydra.utils import instantiate

    dataset = (read_json(folder / "about.json").get("config") or {}).get("dataset")
    if not dataset or not dataset["root"] or not Path(dataset["root"]).exists():
        raise NotHere(f"the list {SPEAKERS} is not in its folder, as older code did not write it")
    root, cache = dataset["root"], folder.parents[1] / "cache"
    table = instantiate(dict(dataset["corpus"]), root=root, label=dataset["label"], cache=cache).table
    return dict(zip(table["id"], table["speaker"], strict=True)) if "speaker" in table else None


def request_of(folder: Path, result: Mapping[str, Any], table: pd.DataFrame) -> Request:
    """Read the request of a result from its lists, as row numbers of the table of its split.

    Raises NotHere if a list is missing, UserError if it names recordings that the split does not have.
    """
    place = {identity: row for row, identity in enumerate(table["id"])}

    def rows(name: str) -> Rows:
        listed = read_list(folder, name)
        if listed is None and name not in ("withdrawn", "counterparts"):
            raise NotHere(f"the list {name}.txt is not in its folder")
        if any(each not in place for each in listed or []):
            raise UserError(
                f"{folder / name}.txt lists recordings that its split does not have: copy the result again."
            )
        return np.sort(np.array([place[each] for each in listed], dtype=np.int64)) if listed else NONE.copy()

    request, past = result["request"], _past(folder, result, table)
    return Request(
        rows("forget"),
        rows("nonmembers"),
        tuple(request["forgotten"]),
        str(request["name"]),
        np.union1d(rows("withdrawn"), past.rows),
        past=past,
        keep_forget=bool(request.get("keep_forget")),
        attribute=_attribute(folder, request, table),
        counterparts=rows("counterparts"),
    )


def _attribute(folder: Path, request: Mapping[str, Any], table: pd.DataFrame) -> Attribute | None:
    """Read what a request for an attribute removes. Raises NotHere if the values are not in the folder."""
    if KIND not in request:
        return None
    if not (folder / VALUES).exists():
        raise NotHere(f"the list {VALUES} is not in its folder")
    values = verified(folder, VALUES).read_text(encoding="utf-8").split("\n")[:-1]
    if len(values) != len(table):
        raise UserError(f"{folder / VALUES} is not of the recordings of its split: copy the result again.")
    return Attribute(str(request[KIND]), np.array(values, dtype=str))


def _past(folder: Path, result: Mapping[str, Any], table: pd.DataFrame) -> Past:
    """Read what earlier requests had forgotten. Raises NotHere if the list is missing."""
    if not result["request"].get("earlier"):
        return Past()
    if not (folder / EARLIER).exists():
        raise NotHere(f"the list {EARLIER} is not in its folder")
    return past_of(table, read_earlier(folder / EARLIER))
