"""Stage: audit a method. Train complementary pairs, let the method forget both halves, and compare the pairs.

docs/audit.md says what an audit shows. The pairs and the oracles of the pool are ordinary models of the store: all
methods, seeds and sweeps share them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechforget.config.evaluation import trainings
from speechforget.config.inputs import code_of
from speechforget.data.requests.pool import Pool
from speechforget.seeding import order
from speechforget.stages.maker import Maker
from speechforget.stages.score_files import read_scores
from speechforget.stages.split import Data
from speechforget.store import Artefact, write_json

AUDIT = "audit.json"
VERSION = 1  # raise it whenever the same inputs give other figures
MOST_RETAIN = 4000  # retain utterances that are looked at for harm


def audit(maker: Maker) -> Artefact:
    """Make or find the figures of an audit of the method, at requests like that of the run."""
    pool = maker.pool
    assert pool is not None
    originals, unlearned, oracles = [], [], []
    asked = {name: training for name, training in trainings(maker.config).items() if training.part is not None}
    for name, model in maker.train_all(list(asked)).items():
        training = asked[name]
        if training.stage == "oracle":
            oracles.append(maker.score("oracle", model))
            continue
        forgot = maker.unlearn(model, training._replace(stage="unlearned"))
        originals.append(maker.score("original", model))
        unlearned.append(maker.score("unlearned", forgot))
    scores = {"original": originals, "unlearned": unlearned, "oracle": oracles}
    inputs = {
        "version": VERSION,
        "scores": {kind: [each.key for each in found] for kind, found in scores.items()},
        "split": maker.data.key,
        "pool": pool_digest(maker.data, pool),
        "code": code_of("audit"),
    }

    def build(folder: Path, _: str) -> None:
        folders = {kind: [each.folder for each in found] for kind, found in scores.items()}
        write_json(folder / AUDIT, audit_figures(maker.data, pool, folders))

    name = "-".join([maker.config["method"]["name"], *maker.words, pool.name])
    return maker.produce("audit", name, inputs, build)


def pool_digest(data: Data, pool: Pool) -> str:
    """Return a hash of the utterances of the pool, their units, all halves, and the withdrawn rows."""
    digest = hashlib.sha256("\n".join(data.table["id"].iloc[pool.rows]).encode())
    for array in (pool.unit, pool.half, pool.withdrawn):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


class _Read(NamedTuple):
    """What an audit needs of one score table. accuracy: on test; of transcripts, the share without a wrong letter."""

    logits: NDArray[np.float64]
    retain: NDArray[np.float64]
    accuracy: float


def audit_figures(data: Data, pool: Pool, folders: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Return the figures of an audit as JSON.

    folders: of the scores of the `original` and `unlearned` models of pairs, in the order 0a, 0b, 1a, ..., and of
    the `oracle`s of the pool. Raises UserError for scores of other utterances, or that are not finite.
    """
    from speechforget.evaluation.audit.figures import figures
    from speechforget.evaluation.audit.tables import PairScores

    retain = order(np.setdiff1d(data.rows("train"), pool.rows), "audit", "retain")[:MOST_RETAIN]
    read = {kind: [_read(folder, data, pool, retain) for folder in found] for kind, found in folders.items()}

    def joined(kind: str, column: str) -> NDArray[np.float64]:
        values = np.stack([getattr(each, column) for each in read[kind]])
        return values if kind == "oracle" else values.reshape(len(pool.half), 2, *values.shape[1:])

    scores = PairScores(
        half=pool.half,
        label=data.numbers[pool.rows],
        unit=pool.unit,
        **{kind: joined(kind, "logits") for kind in read},
        retain_label=data.numbers[retain],
        **{f"retain_{kind}": joined(kind, "retain") for kind in read},
        accuracy_test={kind: joined(kind, "accuracy") for kind in read},
    )
    return {
        "pairs": len(pool.half),
        "oracles": len(read["oracle"]),
        "pool": {"utterances": len(pool.rows), "units": len(np.unique(pool.unit)), "made_up": pool.made_up},
        "retain": len(retain),
        "figures": [figure.to_json() for figure in figures(scores)],
    }


def _read(folder: Path, data: Data, pool: Pool, retain: NDArray[np.int64]) -> _Read:
    from speechforget.evaluation.audit.attack_scores import margin
    from speechforget.evaluation.tables import WRONG_LETTERS, predictions

    columns = read_scores(folder)
    if not np.array_equal(columns["label"], data.numbers):
        raise RuntimeError(f"{folder} does not hold the utterances of this corpus")
    logits, test = columns["logits"], np.setdiff1d(data.rows("test"), pool.withdrawn)
    right = predictions(logits[test]) == data.numbers[test]
    if "errors" in columns:
        right = columns["errors"][test, WRONG_LETTERS] == 0
    return _Read(
        np.asarray(logits[pool.rows], dtype=np.float64),
        margin(logits[retain], data.numbers[retain]),
        float(right.mean()) if len(test) else math.nan,
    )
