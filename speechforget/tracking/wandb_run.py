"""One run in W&B, written by the mirror process."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechforget.tracking.wandb_settings import NAME, TAG, shortened

SECONDS_TO_START = 10.0  # for W&B to start a run
PRESETS = {  # charts that every W&B server has, and the name that each gives to the columns it draws
    "line": ("wandb/line/v0", ("x", "y", "stroke")),
    "bar": ("wandb/bar/v0", ("label", "value")),
    "confusion": ("wandb/confusion_matrix/v1", ("Actual", "Predicted", "nPredictions")),
}
Message = Mapping[str, Any]


class Wandb:
    """Show a run in W&B. It gets all rows from the first one, and skips those that the server already has."""

    def __init__(self, told: Message, offline: bool) -> None:
        folder, name = Path(told["folder"]), told["key"][:32]
        # An interrupted attempt left its folder.
        for earlier in (folder / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(earlier, ignore_errors=True)
        keep_inside(folder / "wandb")
        import wandb

        self.run = wandb.init(
            project=told["project"],
            entity=told["entity"],
            name=shortened(told["name"]),
            id=name,
            resume="allow",
            group=shortened(told["group"], NAME),
            job_type=told["stage"],
            tags=[shortened(tag, TAG) for tag in told["tags"]],
            config=told["config"],
            dir=folder,
            mode="offline" if offline else "online",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=SECONDS_TO_START,
                x_stats_pid=os.getppid(),
                x_disable_meta=told["names"] != "open",  # it holds the folder, the user and the host
            ),
        )
        # One pattern for each run, as W&B does not say which of two that fit it takes.
        step, names = ("pass/number", "pass/*") if told["stage"] == "result" else ("trainer/global_step", "*")
        self.run.define_metric(step)
        self.run.define_metric(names, step_metric=step, step_sync=True)

    def point(self, number: int, row: Mapping[str, float]) -> None:
        """See `Shown`."""
        self._log({"trainer/global_step" if name == "step" else name: value for name, value in row.items()}, number)

    def comparison(self, told: Message) -> None:
        """Log the curve with the level of the oracle, tables, charts, scalars and an image.

        Notes appear at the top of the run's page. Numbers that are no headline go to the summary alone: each key of the
        history would be a panel of its own.
        """
        import wandb

        for number, row in enumerate(told["passes"]):
            self._log(row, number)
        sheets = {name: _shown(sheet) for name, sheet in told["sheets"].items()}
        comparison = wandb.Table(columns=told["columns"], data=told["rows"])
        image = {"comparison plot": [wandb.Image(told["plot"])]} if told["plot"] else {}
        numbers = {**told["scalars"], **told["summary"]}
        panels = {name: numbers[name] for name in told["headline"]}
        self._log({**panels, "comparison": comparison, **image, **sheets}, len(told["passes"]))
        self.run.summary.update(numbers)
        if told["notes"]:
            self.run.summary["notes"] = self.run.notes = "\n".join(told["notes"])

    def _log(self, row: Mapping[str, Any], number: int) -> None:
        if number >= self.run.starting_step:
            self.run.log(dict(row), step=number, commit=True)

    def artifacts(self, listed: Sequence[Message]) -> None:
        """Log the artifacts that the run made, and declare those that it used."""
        import wandb

        for told in listed:
            artifact = wandb.Artifact(told["name"], told["type"], metadata=dict(told["metadata"]))
            for name, uri in told["references"].items():
                artifact.add_reference(uri, name=name, checksum=False)
            for name, path in told["files"].items():
                # A finished file never changes, so W&B needs no copy of it.
                artifact.add_file(path, name=name, policy="immutable", skip_cache=True)
            if told["used"]:
                # `use_artifact` does this, but refuses to in an offline run.
                self.run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
            else:
                self.run.log_artifact(artifact)

    def finish(self, failed: bool) -> None:
        """See `Shown`."""
        self.run.finish(exit_code=int(failed))


def keep_inside(folder: Path) -> None:
    """Let W&B put its copies of tables and sounds below the artefact, where a purge finds and removes them."""
    kept = folder / "staging"
    shutil.rmtree(kept, ignore_errors=True)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(kept.resolve())


def _shown(sheet: Message) -> Any:
    """Return a table, drawn by a preset of W&B if the sheet says how."""
    import wandb

    rows: list[Any] = [[_cell(cell) for cell in row] for row in sheet["rows"]]
    table = wandb.Table(columns=list(sheet["columns"]), data=rows)
    drawn = sheet["drawn"]
    if not drawn:
        return table
    preset, axes = PRESETS[drawn["chart"]]
    fields = {axis: drawn[axis] for axis in axes}
    return wandb.plot_table(preset, table, fields, {"title": sheet["title"]})


def _cell(cell: Any) -> Any:
    """Return a cell; a recording becomes a sound with exactly its samples."""
    if not isinstance(cell, Mapping):
        return cell
    import soundfile
    import wandb

    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(cell["wav"])), dtype="int16")
    return wandb.Audio(samples, sample_rate=rate)
