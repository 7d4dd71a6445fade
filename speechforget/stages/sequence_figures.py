"""Compute the figures of a sequence from its score tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechforget.data.requests.request import Request
from speechforget.evaluation.sequence import DRIFT, Cell, cells, revivals
from speechforget.evaluation.tables import Tables
from speechforget.stages.score_files import read_table
from speechforget.stages.split import Data


class Scored(NamedTuple):
    """Hold what a sequence was scored with.

    requests: in their order. steps: for each, the folders of the scores of its models by name. together: the same of
    all requests at once. The first original is that of the first step.
    """

    data: Data
    requests: Sequence[Request]
    steps: Sequence[Mapping[str, Path]]
    together: Mapping[str, Path]
    seed: int


def sequence_figures(scored: Scored) -> dict[str, Any]:
    """Return matrix, revival, drift and the figures of all requests at once, as JSON."""
    last = len(scored.requests) - 1
    every = [cell for place in range(last + 1) for cell in _after(scored, place, scored.steps[place])]
    beside = _after(scored, last, scored.together)
    matrix = [cell for cell in every if cell.metric != DRIFT]
    return {
        "matrix": [cell.to_json() for cell in matrix],
        "revival": [{**each._asdict(), "null": list(each.null)} for each in revivals(matrix)],
        "drift": [cell.to_json() for cell in every if cell.metric == DRIFT and cell.request == 1],
        "at_once": [cell.to_json() for cell in beside if cell.metric != DRIFT or cell.request == 1],
    }


def _after(scored: Scored, place: int, folders: Mapping[str, Path]) -> list[Cell]:
    """Return the figures of all requests up to one, in the models whose scores are in the folders."""
    first = range(place + 1)
    return [cell for number in first for cell in cells(_tables(scored, folders, number), place + 1, number + 1)]


def _tables(scored: Scored, folders: Mapping[str, Path], number: int) -> Tables:
    """Join the scores of a run, and those of the first original, with the roles of one request of the sequence."""
    data, request = scored.data, scored.requests[number]
    unheard = reduce(np.union1d, (each.unheard for each in scored.requests), scored.requests[0].past.rows)
    role = data.table["subset"].to_numpy(dtype=str).astype("U10")
    role[role == "train"] = "retain"
    role[request.forget] = "forget"
    nonmember = np.zeros(len(role), dtype=bool)
    nonmember[np.setdiff1d(request.nonmembers, unheard)] = True
    read = {
        name: read_table(folder, data.numbers, role, nonmember, unheard, math.nan)
        for name, folder in {**folders, "original": scored.steps[0]["original"]}.items()
    }
    oracles = tuple(read[name] for name in folders if name.startswith("oracle"))
    classes = sorted({name for each in scored.requests for name in each.of_oracle.forgotten})
    forgotten = tuple(data.classes.index(name) for name in classes)
    speakers = data.speakers(unheard)
    return Tables(read["original"], oracles, read["unlearned"], forgotten, scored.seed, speakers, tuple(data.classes))
