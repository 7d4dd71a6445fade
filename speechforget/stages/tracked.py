"""Send a result to a tracker: the curve of the method with the oracle's level, numbers, tables and charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechforget.evaluation.divergence import log_softmax
from speechforget.evaluation.tables import FRAMES, Scores, Tables
from speechforget.report.charts.names import Names
from speechforget.report.charts.scene import Scene, make_scene, thinned
from speechforget.report.charts.utterances import utterances
from speechforget.report.record import footnotes
from speechforget.report.sounds import wav_files
from speechforget.report.tracked import comparison_rows, headline, scalars, sheets, summary
from speechforget.stages.compare import PLOT
from speechforget.stages.curve_rows import curve_rows
from speechforget.store import Artefact
from speechforget.tracking.curves import Row, read_curve
from speechforget.tracking.hiding import HASHED, OPEN, names_people
from speechforget.tracking.tracker import Comparison, Sheet

if TYPE_CHECKING:
    from speechforget.data.requests.select import Request
    from speechforget.stages.split import Data

MOST_SOUNDS = 10  # recordings that a result shows, if it is asked to
NOT_KEPT = "no decoded samples are kept (dataset.cache=none)"


def tracked(
    folder: Path,
    config: Mapping[str, Any],
    data: Data,
    request: Request,
    models: Mapping[str, Artefact],
    result: Mapping[str, Any],
    tables: Tables,
) -> Comparison:
    """Return what a tracker shows of the result in `folder`. tables: its score tables, without withdrawn utterances."""
    names = Names(folder.parents[1], config["logger"].get("names") == OPEN)
    audible = bool(config["logger"].get("audio"))
    ids = np.delete(data.table["id"].to_numpy(dtype=str), request.withdrawn)
    # Ids are hashed only where they are shown.
    scene = make_scene(result["comparison"], tables, ids if audible else np.full(len(ids), ""), result["label"], names)
    found, reasons = sheets(scene, result)
    if audible and config["dataset"]["cache"] == "none":
        reasons["missing/audio"] = NOT_KEPT
    elif audible:
        found["tables/audio"] = _audio(scene, data, ids, int(config["dataset"]["sample_rate"]))
    columns, rows = comparison_rows(result["comparison"])
    numbers, more = scalars(result), summary(result)
    plot: Path | None = folder / PLOT
    if config["logger"].get("names") == HASHED and names_people(folder.name):
        plot, reasons["missing/plot"] = None, "its title names the request"
    return Comparison(
        columns,
        rows,
        numbers,
        plot,
        [*result["flags"].values(), *footnotes(result)],
        {**more, **reasons},
        list(passes(data, request, tables, read_curve(models["unlearned"].folder), int(config["seed"]))),
        found,
        headline([*numbers, *more]),
    )


def passes(data: Data, request: Request, tables: Tables, curve: list[Row], seed: int) -> Iterator[dict[str, float]]:
    """Yield the curve of a method, pass 0 being the original, with the oracle's level on the same utterances.

    A method without passes has one: its model.
    """
    numbers = np.delete(np.arange(len(data.table)), request.withdrawn)
    subsets = {name: numbers[mask] for name, mask in tables.subsets().items()}
    chosen = {name: np.searchsorted(numbers, rows) for name, rows in curve_rows(subsets, seed).items()}
    labels = data.taught[numbers]

    def level(scores: Scores, model: str = "") -> dict[str, float]:
        return {
            f"pass/{name}_{measure}{model}": value
            for name, rows in chosen.items()
            for measure, value in _measured(scores, rows, labels[rows]).items()
        }

    aim = level(tables.oracle, "_oracle") if tables.oracles else {}
    yield {"pass/number": 0, **level(tables.original), **aim}
    if not curve:
        yield {"pass/number": 1, **level(tables.unlearned), **aim}
    for number, row in enumerate(curve, start=1):
        shown = {f"{name}_{measure}": f"{name}/{measure}" for name in chosen for measure in ("accuracy", "loss")}
        yield {"pass/number": number, **{f"pass/{name}": row[key] for name, key in shown.items() if key in row}, **aim}


def _measured(scores: Scores, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return accuracy and mean loss on some rows, for the labels that models were trained on, as a curve has them.

    The loss is the cross-entropy in nats; of transcripts, in nats per frame.
    """
    if scores.errors is not None:
        per_frame = scores.loss[rows] / scores.errors[rows, FRAMES]
        return {"accuracy": float(scores.right[rows].mean()), "loss": float(per_frame.mean())}
    losses = -log_softmax(np.asarray(scores.logits[rows], dtype=np.float64))[np.arange(len(rows)), labels]
    return {"accuracy": float((scores.predicted[rows] == labels).mean()), "loss": float(losses.mean())}


def _audio(scene: Scene, data: Data, ids: NDArray[np.str_], rate: int) -> Sheet:
    """Return some recordings of forget with what the models answer, drawn by a hash."""
    forget = thinned(np.flatnonzero(scene.tables.subsets()["forget"]), MOST_SOUNDS, scene.names)
    wavs = wav_files(data.audio, list(ids[forget]), rate).values()
    sounds = dict(zip(scene.names[forget], wavs, strict=True))
    chart = utterances(scene)
    rows = [[*row, {"wav": sounds[row[0]]}] for row in chart["rows"] if row[0] in sounds]
    return Sheet([*chart["columns"], "audio"], rows)
