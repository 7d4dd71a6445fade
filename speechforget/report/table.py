"""The tables of a report: blocks of rows, with the statistics of each row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Statistic:
    """Hold mean and standard deviation of a metric over n runs, and of its signed gap to the oracle over gap_n runs.

    The deviation divides by n - 1; it is nan for one run. band_low, band_high: of oracles, the mean of the runs' own
    bands; nan if it is not known. within: whether every run's value is within its own band; None if one has no band.
    """

    mean: float
    std: float
    n: int
    gap_mean: float
    gap_std: float
    gap_n: int
    band_low: float = math.nan
    band_high: float = math.nan
    within: bool | None = None


@dataclass
class Row:
    """Hold the statistics of one model of a block, by metric.

    artefact: original, oracle or unlearned. marked: whether 0.5 is outside the interval of the oracle's attack.
    flags: flag -> the number of runs that have it. machines: the kinds that seconds were measured on, "" if unknown.
    folders: of the results, of an unlearned model only.
    """

    name: str
    artefact: str
    runs: int
    metrics: dict[str, Statistic]
    marked: bool = False
    flags: Mapping[str, int] = field(default_factory=dict)
    machines: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@dataclass
class Block:
    """Hold the rows of one kind of request."""

    title: str
    rows: list[Row] = field(default_factory=list)


@dataclass
class Table:
    """Hold everything measured with one dataset, label and model."""

    dataset: str
    label: str
    model: str
    holdout: bool
    oracle: bool
    setting: str
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Name label, dataset and model in one line, and what the runs lack."""
        task = {"word": "keyword spotting", "speaker": "speaker identification", "text": "speech recognition"}.get(
            self.label, f"{self.label} classification"
        )
        lacking = ["" if self.holdout else "no holdout", "" if self.oracle else "no oracle"]
        parts = [f"{task.capitalize()} on {self.dataset} with {self.model}", self.setting, *lacking]
        return ", ".join(part for part in parts if part)
