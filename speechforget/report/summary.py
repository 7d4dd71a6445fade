"""From single runs to the rows of the tables: mean and standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from speechforget.report.collect import differences
from speechforget.report.result import FEWEST_NONMEMBERS

TABLE = ["dataset", "label", "model", "holdout", "oracle", "settings"]
SHOWN_REQUESTS = 3


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation (n - 1; nan for one run) over n runs, of a metric and of its signed gap to the oracle."""

    mean: float
    std: float
    n: int
    gap_mean: float
    gap_std: float


@dataclass
class Row:
    """One model of a block: `artefact` original, oracle or unlearned; metric name -> Statistic; marked where 0.5 lies outside."""

    name: str
    artefact: str
    runs: int
    metrics: dict[str, Statistic]
    marked: bool = False


@dataclass
class Block:
    """The rows of one kind of request."""

    title: str
    rows: list[Row] = field(default_factory=list)


@dataclass
class Table:
    """Everything measured with one dataset, label and model."""

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
        """A line that says what was classified, on what, by what."""
        task = {"word": "keyword spotting", "speaker": "speaker identification"}.get(self.label, f"{self.label} classification")
        lacking = ["" if self.holdout else "no holdout", "" if self.oracle else "no oracle"]
        parts = [f"{task.capitalize()} on {self.dataset} with {self.model}", self.setting, *lacking]
        return ", ".join(part for part in parts if part)


def summarize(frame: pd.DataFrame) -> list[Table]:
    """The tables of `collect`'s rows: one per dataset, label, model, use of a holdout and of an oracle, and settings; sample requests first."""
    tables = []
    key: Any
    settings = {key: differences(list(part["settings"])) for key, part in frame.groupby(TABLE[:-1])}
    for key, part in frame.groupby(TABLE):
        dataset, label, model, holdout, oracle, setting = key
        table = Table(dataset, label, model, bool(holdout), bool(oracle), settings[key[:-1]][setting])
        table.blocks = list(_blocks(part))
        table.notes = list(_notes(part))
        tables.append(table)
    return tables


def _blocks(frame: pd.DataFrame) -> Iterator[Block]:
    tasks = {str(kind): differences(list(part["task"])) for kind, part in frame.groupby("kind")}
    for kind in sorted(tasks, key=lambda kind: (kind != "sample", kind != "class", kind)):
        of_kind = frame[frame["kind"] == kind]
        for task in sorted(of_kind["task"].unique()):
            part = of_kind[of_kind["task"] == task]
            requests = sorted(part["request"].unique())
            shown = ", ".join(requests) if len(requests) <= SHOWN_REQUESTS else f"{len(requests)} requests"
            words = " ".join(word for word in (f"{kind} unlearning", f"({tasks[kind][task]})" if tasks[kind][task] else "") if word)
            yield Block(f"{words}: {shown}", list(_block_rows(part)))


def _block_rows(frame: pd.DataFrame) -> Iterator[Row]:
    for artefact in ("original", "oracle"):
        yield _row(artefact, artefact, frame[frame["artefact"] == artefact])
    unlearned = frame[frame["artefact"] == "unlearned"]
    for method in sorted(unlearned["method"].unique(), key=lambda name: (name != "none", name)):
        part = unlearned[unlearned["method"] == method]
        words = differences(list(part["method_settings"]))
        for setting in sorted(words):
            name = f"{method} ({words[setting]})" if words[setting] else method
            yield _row(name, "unlearned", part[part["method_settings"] == setting])


def _row(name: str, artefact: str, frame: pd.DataFrame) -> Row:
    """Statistics over different artefacts: the same original or oracle, seen in the runs of several methods, counts once."""
    once = frame.drop_duplicates(["key", "metric"])
    metrics = {}
    for metric, part in once.groupby("metric"):
        value, gap = part["value"].dropna(), part["gap"].dropna()
        metrics[str(metric)] = Statistic(float(value.mean()), float(value.std()), len(value), float(gap.mean()), float(gap.std()))
    if artefact == "oracle" and not frame["oracle"].any():
        return Row(name, artefact, 0, metrics)
    return Row(name, artefact, once["key"].nunique(), metrics, artefact == "oracle" and bool((frame["verdict"] == "outside").any()))


def _notes(frame: pd.DataFrame) -> Iterator[str]:
    """What a reader must know to trust the table."""
    aim = " The oracle is the aim; more forgetting than its is a failure." if frame["oracle"].any() else ""
    yield f"Mean ± standard deviation over n runs, which differ in seed or request seed.{aim}"
    yield from dict.fromkeys(note for notes in frame["notes"].unique() for note in notes.split("\n") if note)
    oracles = frame[frame["artefact"] == "oracle"].drop_duplicates("key")
    verdicts = oracles["verdict"].value_counts()
    total = len(oracles)
    if outside := verdicts.get("outside", 0):
        yield (
            f"* In {outside} of {total} oracles 0.5 lies outside the 99 % interval of the attack's AUC: "
            "forget and its non-members differ in more than membership."
        )
    if few := verdicts.get("too few", 0):
        yield f"In {few} of {total} oracles there are too few to tell: fewer than {FEWEST_NONMEMBERS} non-members."
    if nothing := verdicts.get("no matching holdout", 0):
        yield f"In {nothing} of {total} oracles no holdout utterance matches the request."
    if verdicts.get("no oracle", 0):
        yield "Without an oracle the membership attack cannot be checked."
    if verdicts.get("no holdout", 0):
        yield "Without a holdout there are no non-members to attack with."
    if (codes := frame["code"].nunique()) > 1:
        yield f"The runs come from {codes} different states of the code or versions of its libraries."
    unlearned = frame[frame["artefact"] == "unlearned"].drop_duplicates("key")
    same = unlearned.groupby(["task", "method", "method_settings", "request", "seed", "task_seed"]).size()
    if (repeated := same[same > 1]).size:
        names = ", ".join(sorted({str(key[1]) for key in repeated.index}))
        yield f"Runs of {names} share seed and request and still differ (in code, split or unnamed settings); they were averaged."
