"""Stage: compare score tables; write result.json, result.csv, config.yaml and comparison.png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from speechforget.config.inputs import metrics_in
from speechforget.errors import UserError
from speechforget.evaluation.compare import compare
from speechforget.evaluation.tables import MODELS, Scores, Tables, Value
from speechforget.report.plot import comparison_plot
from speechforget.report.record import write_result
from speechforget.stages.attack_values import read_values
from speechforget.stages.score_files import read_table, read_untrained
from speechforget.store import Artefact, verified, write_text

if TYPE_CHECKING:
    from speechforget.data.requests.select import Request
    from speechforget.stages.split import Data

SPEAKERS = "speakers.txt"
GROUPS = "groups.csv"
PLOT = "comparison.png"


def write_comparison(
    folder: Path,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    data: Data,
    request: Request,
    models: Mapping[str, Artefact],
    scores: Mapping[str, Artefact],
    attacked: Mapping[str, Sequence[Artefact]],
    untrained: Artefact | None,
    groups: Sequence[str] = (),
) -> tuple[dict[str, Any], Tables]:
    """Compare the models and write result, config and plot to `folder`; return the result and its score tables.

    attacked: model -> the artefacts of the attacks on it. untrained: see `stages.untrained`, if a metric needs it.
    groups: columns of the corpus whose values are compared.
    """
    save_speakers(folder, data)
    save_groups(folder, data.table, groups)
    tables = join(data, request, models, scores, int(config["seed"]), untrained, groups)
    comparison = compare(tables, metrics_in(config["evaluation"]), measured(attacked))
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    result = write_result(folder, dict(record), comparison)
    comparison_plot(result, None, folder / PLOT, tables)
    return result, tables


def save_speakers(folder: Path, data: Data) -> None:
    """Write speakers.txt: who speaks in each row of the split, one a line; empty if the corpus does not say.

    The numbers of a result can then be computed again without the corpus.
    """
    text = "".join(f"{speaker}\n" for speaker in data.table["speaker"]) if "speaker" in data.table else ""
    write_text(folder / SPEAKERS, text)


def save_groups(folder: Path, table: pd.DataFrame, groups: Sequence[str]) -> None:
    """Write groups.csv: the compared columns of each row of the split; no file without such a column."""
    if groups:
        write_text(folder / GROUPS, table[list(groups)].to_csv(index=False))


def read_groups(folder: Path) -> pd.DataFrame:
    """Read the columns that `save_groups` wrote; a table without columns if there are none."""
    if not (folder / GROUPS).exists():
        return pd.DataFrame()
    return pd.read_csv(verified(folder, GROUPS), dtype=str, keep_default_na=False)


def join(
    data: Data,
    request: Request,
    models: Mapping[str, Artefact],
    scores: Mapping[str, Artefact],
    seed: int,
    untrained: Artefact | None = None,
    groups: Sequence[str] = (),
) -> Tables:
    """Join the score tables with the role of each utterance; withdrawn utterances are left out.

    Raises RuntimeError if a score table is not of exactly the rows of the corpus.
    """
    role = data.table["subset"].to_numpy(dtype=str).astype("U10")
    role[role == "train"] = "retain"
    role[request.forget] = "forget"
    nonmember = np.zeros(len(role), dtype=bool)
    nonmember[request.nonmembers] = True

    def read(name: str) -> Scores:
        seconds = training_seconds(models[name].cost)
        return read_table(scores[name].folder, data.numbers, role, nonmember, request.withdrawn, seconds)

    forgotten = tuple(data.classes.index(name) for name in request.forgotten)
    oracles = tuple(read(name) for name in scores if name.startswith("oracle"))
    return Tables(
        read("original"),
        oracles,
        read("unlearned"),
        forgotten,
        seed,
        data.speakers(request.withdrawn),
        tuple(data.classes),
        data.confused,
        None if untrained is None else read_untrained(untrained.folder),
        np.delete(data.taught, request.withdrawn),
        {name: np.delete(data.table[name].to_numpy(dtype=str), request.withdrawn) for name in groups},
        None if request.attribute is None else np.delete(request.attribute.values, request.withdrawn),
    )


def measured(attacked: Mapping[str, Sequence[Artefact]]) -> dict[str, list[dict[str, Value]]]:
    """Return what attacks measured in each model: original and unlearned once, the oracles in the order of models.

    Raises UserError if two attacks give a value the same name.
    """
    found: dict[str, list[dict[str, Value]]] = {name: [] for name in MODELS}
    for model, artefacts in attacked.items():
        values: dict[str, Value] = {}
        for artefact in artefacts:
            more = read_values(artefact.folder)
            if twice := sorted(values.keys() & more.keys()):
                raise UserError(f"Two attacks give '{twice[0]}': remove one of them from evaluation.attacks.")
            values |= more
        found["oracle" if model.startswith("oracle") else model].append(values)
    return found


def training_seconds(cost: Mapping[str, Any]) -> float:
    """Return the training seconds of a `cost.json`; nan for an imported model, for which they are unknown."""
    return math.nan if cost.get("of") == "importing" else float(cost["seconds"])
