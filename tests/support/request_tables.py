"""Small tables of utterances that requests are drawn from, and what every request keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from speechforget.data.requests.select import Request
from speechforget.data.split import split

CONF = Path(__file__).parents[2] / "conf" / "task"


def task(kind: str = "sample", **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CONF / f"{kind}.yaml").read_text()), **changes}


def corpus(words: int = 5, speakers: int = 6, takes: int = 10, holdout: float = 0.2) -> pd.DataFrame:
    rows = [
        {
            "id": f"w{word}/s{speaker}_{take}",
            "word": f"w{word}",
            "speaker": f"s{speaker}",
            "take": str(take),
            "subset": "test" if take == 0 else "",
        }
        for word in range(words)
        for speaker in range(speakers)
        for take in range(takes)
    ]
    table = pd.DataFrame(rows, dtype=str)
    return split(table.assign(sha1=table["id"]), "word", holdout=holdout)


TABLE = corpus()


def labels(rows: np.ndarray, table: pd.DataFrame = TABLE) -> dict[str, int]:
    return table["label"].iloc[rows].value_counts().to_dict()


def check(request: Request, table: pd.DataFrame = TABLE) -> None:
    assert request.forget.dtype == request.nonmembers.dtype == np.int64
    for rows in (request.forget, request.nonmembers, request.retain(table)):
        assert (np.diff(rows) > 0).all()
    assert set(table["subset"].iloc[request.forget]) == {"train"}
    assert set(table["subset"].iloc[request.nonmembers]) <= {"holdout"}
    assert not set(request.forget) & set(request.retain(table))
    assert len(request.forget) + len(request.retain(table)) == (table["subset"] == "train").sum()
