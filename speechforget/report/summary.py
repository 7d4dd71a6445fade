"""Rows of the tables: mean and standard deviation over runs that differ only in seeds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from speechforget.evaluation.flags import DESTROYED, LOST, MOVED, STILL, UNCHANGED
from speechforget.evaluation.membership import GUESSING
from speechforget.report.collect import BAND, shown_time
from speechforget.report.cost import FORWARDS
from speechforget.report.differences import differences, digits
from speechforget.report.record import FEWEST_NONMEMBERS
from speechforget.report.table import Block, Row, Statistic, Table

NAMES = ["dataset", "label", "model", "holdout", "oracle"]
SHOWN_REQUESTS = 3
SHOWN_FOLDERS = 5
LEGEND = {
    UNCHANGED: f"Does nothing: accuracy on forget is within {100 * STILL:g} point of the original's, "
    f"which is more than {100 * MOVED:g} points from the oracle's.",
    DESTROYED: f"Destroys the model: accuracy on retain is more than {100 * LOST:g} points below the oracle's "
    "(without an oracle, the original's).",
}


def summarize(frame: pd.DataFrame) -> list[Table]:
    """Make tables of the rows of `collect`: one for each way to make original and oracle, sample requests first."""
    frame, superseded = _newest(frame)
    tables = []
    key: Any
    for key, alike in frame.groupby(NAMES):
        dataset, label, model, holdout, oracle = key
        settings = _words(alike, "table")
        for identity in sorted(settings, key=lambda identity: (settings[identity], identity)):
            part = alike[alike["table"] == identity]
            table = Table(dataset, label, model, bool(holdout), bool(oracle), settings[identity])
            table.blocks = list(_blocks(part))
            table.notes = [*_notes(part), *_older(part, superseded), *_seconds(table.blocks), *_legend(table.blocks)]
            tables.append(table)
    return tables


def _newest(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the newest number of each metric and model; also return the older numbers that differ from it."""
    ordered = frame.sort_values(["recorded", "time", "folder"], ascending=[False, False, True], kind="stable")
    same = [*NAMES, "table", "block", "row", "artefact", "key", "metric"]
    # Results of several methods share original and oracle.
    ordered["row"] = ordered["row"].where(ordered["artefact"] == "unlearned", "")
    older = ordered.duplicated(same)
    newest = ordered[~older]
    beside = ordered[older].merge(newest[[*same, "value", "folder"]], on=same, suffixes=("", "_newest"))
    changed = beside[
        ~((beside["value"] == beside["value_newest"]) | (beside["value"].isna() & beside["value_newest"].isna()))
    ]
    return newest.sort_index(), changed


def _words(frame: pd.DataFrame, level: str) -> dict[str, str]:
    """Map each identity on this level to its differences from the others in the frame."""
    once = frame.drop_duplicates(level)
    return differences(
        {identity: json.loads(facts)[level] for identity, facts in zip(once[level], once["facts"], strict=True)}
    )


def _blocks(frame: pd.DataFrame) -> Iterator[Block]:
    for kind in sorted(frame["kind"].unique(), key=lambda kind: (kind != "sample", kind != "class", kind)):
        of_kind = frame[frame["kind"] == kind]
        tasks = _words(of_kind, "block")
        for task in sorted(tasks, key=lambda task: (tasks[task], task)):
            part = of_kind[of_kind["block"] == task]
            requests = sorted(part["request"].unique())
            shown = ", ".join(requests) if len(requests) <= SHOWN_REQUESTS else f"{len(requests)} requests"
            words = " ".join(word for word in (f"{kind} unlearning", f"({tasks[task]})" if tasks[task] else "") if word)
            yield Block(f"{words}: {shown}", list(_block_rows(part)))


def _block_rows(frame: pd.DataFrame) -> Iterator[Row]:
    for artefact in ("original", "oracle"):
        yield from _rows(artefact, "", frame[frame["artefact"] == artefact])
    unlearned = frame[frame["artefact"] == "unlearned"]
    for method in sorted(unlearned["method"].unique(), key=lambda name: (name != "none", name)):
        part = unlearned[unlearned["method"] == method]
        words = _words(part, "row")
        for identity in sorted(words, key=lambda identity: (words[identity], identity)):
            yield from _rows(method, words[identity], part[part["row"] == identity])


def _rows(name: str, words: str, frame: pd.DataFrame) -> Iterator[Row]:
    """Yield one row, or several if its runs differ in the code of metrics or in something unknown."""
    apart = _apart(frame)
    for label in sorted(set(apart.values())):
        keys = [key for key, own in apart.items() if own == label]
        said = ", ".join(word for word in (words, label) if word)
        yield _row(f"{name} ({said})" if said else name, frame[frame["key"].isin(keys)])


def _apart(frame: pd.DataFrame) -> dict[str, str]:
    """Map each key to a label for its row; the label is "" for all keys that differ only in seeds."""
    code: dict[str, dict[str, Any]] = {}
    seeds: dict[str, str] = {}
    for key, text, drawn in (
        frame.sort_values("time")[["key", "metric_code", "seeds"]].drop_duplicates().itertuples(index=False)
    ):
        code[key] = {**code.get(key, {}), **json.loads(text)}
        seeds.setdefault(key, drawn)
    paths = {path for own in code.values() for path in own}
    conflicts = sorted(
        path for path in paths if len({json.dumps(own[path]) for own in code.values() if path in own}) > 1
    )
    said = {
        key: f"metrics code {digits(json.dumps([own.get(path) for path in conflicts]))}" if conflicts else ""
        for key, own in code.items()
    }
    twice = Counter((said[key], seeds[key]) for key in code)
    # Equal in everything recorded, seeds too, but with different keys: the difference is unknown.
    unclear = {label for (label, _), count in twice.items() if count > 1}
    return {
        key: ", ".join(word for word in (said[key], f"key {digits(key)}") if word)
        if said[key] in unclear
        else said[key]
        for key in code
    }


def _row(name: str, frame: pd.DataFrame) -> Row:
    """Compute statistics over distinct artefacts: an original or oracle that several runs share counts once."""
    artefact = str(frame["artefact"].iloc[0])
    metrics: dict[str, Statistic] = {}
    machines: tuple[str, ...] = ()
    for metric, part in frame.groupby("metric"):
        known = part[part["value"].notna()]
        if metric == "seconds":
            machines = tuple(sorted(known["machine"].unique()))
            if len(known) > 1 and (len(machines) > 1 or "" in machines):
                known = known[:0]
        value, gap = known["value"], known["gap"].dropna()
        metrics[str(metric)] = Statistic(
            float(value.mean()),
            float(value.std()),
            len(value),
            float(gap.mean()),
            float(gap.std()),
            len(gap),
            *_band(known, artefact),
        )
    if artefact == "oracle" and not frame["oracle"].any():
        return Row(name, artefact, 0, metrics)
    once = frame.sort_values("time", ascending=False, kind="stable").drop_duplicates("key")
    flags = Counter(flag for text in once["flags"] for flag in json.loads(text))
    return Row(
        name,
        artefact,
        len(once),
        metrics,
        artefact == "oracle" and bool((once["verdict"] == "outside").any()),
        flags,
        machines,
        tuple(sorted(once["folder"])) if artefact == "unlearned" else (),
    )


def _band(known: pd.DataFrame, artefact: str) -> tuple[float, float, bool | None]:
    """Return the mean band of oracles, and whether each value is within its own; see `Statistic`."""
    if artefact != "unlearned" or known.empty or known[BAND].isna().to_numpy().any():
        return math.nan, math.nan, None
    low, high = (known[name] for name in BAND)
    return float(low.mean()), float(high.mean()), bool(known["value"].between(low, high).all())


def _notes(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the notes that a reader needs to trust the table."""
    aim = " The oracle is the aim: forgetting more than the oracle is a failure." if frame["oracle"].any() else ""
    yield f"Mean ± standard deviation over n runs that differ only in seeds (seed, task.seed, dataset.split_seed).{aim}"
    yield from dict.fromkeys(note for notes in frame["notes"].unique() for note in notes.split("\n") if note)
    oracles = frame[frame["artefact"] == "oracle"].drop_duplicates("key")
    verdicts = oracles["verdict"].value_counts()
    total = len(oracles)
    if outside := verdicts.get("outside", 0):
        yield (
            f"* For {outside} of {total} oracles 0.5 is outside the 99 % interval of the attack AUC: "
            "forget and its non-members differ in more than membership."
        )
    if few := verdicts.get("too few", 0):
        yield f"For {few} of {total} oracles the attack cannot be judged: fewer than {FEWEST_NONMEMBERS} non-members."
    if nothing := verdicts.get("no matching holdout", 0):
        yield f"For {nothing} of {total} oracles no holdout utterance matches the request."
    if verdicts.get("no oracle", 0):
        yield "Without an oracle the membership attack cannot be checked."
    if verdicts.get("no holdout", 0):
        yield "Without a holdout there are no non-members to attack with."
    if frame["reason"][frame["metric"] == "membership_nonmember_share"].str.startswith(GUESSING).any():
        yield (
            "The share judged non-member is left out (–, or a smaller n) where its attack is no better than guessing: "
            "the 99 % interval of the attack accuracy includes 50 %."
        )
    if methods := sorted(frame["method"][frame["untried"]].unique()):
        yield (
            f"Not tried on requests of these sizes, or not on transcripts, by method.tried: {', '.join(methods)}. "
            "With their default numbers they may do nothing, or destroy the model."
        )
    if (codes := frame["code"].nunique()) > 1:
        yield f"The runs used {codes} different commits or versions of libraries."
    if not frame["recorded"].all():
        yield (
            "This result was made by older code, which did not record its identity, so it is averaged with no other: "
            "run its command again."
        )


def _older(frame: pd.DataFrame, superseded: pd.DataFrame) -> Iterator[str]:
    """Name the results that newer results of the same models replaced."""
    gone = superseded[
        superseded["table"].isin(frame["table"]) & superseded["dataset"].isin(frame["dataset"])
    ].drop_duplicates("folder")
    if len(gone):
        named = [
            f"{Path(folder).name} ({shown_time(time)})"
            for folder, time in zip(gone["folder"], gone["time"], strict=True)
        ][:SHOWN_FOLDERS]
        more = f" and {len(gone) - len(named)} more" if len(gone) > len(named) else ""
        yield (
            "Of several results of the same models the newest is shown. "
            f"Older ones with other numbers are left out: {', '.join(named)}{more}."
        )


def _seconds(blocks: list[Block]) -> Iterator[str]:
    """Name the rows with seconds that are not comparable, and give their passes, which are."""
    rows = [row for block in blocks for row in block.rows if row.machines]
    mixed = [row.name for row in rows if "seconds" in row.metrics and not row.metrics["seconds"].n]
    kinds = sorted({machine or "unknown, or several kinds" for row in rows for machine in row.machines})
    if mixed:
        named = ", ".join(dict.fromkeys(mixed))
        yield f"Seconds of {named} are not averaged: they were measured on machines of different or unknown kinds."
    if len(kinds) > 1:
        yield f"Seconds of rows are not comparable: they are from {len(kinds)} kinds of machine: {'; '.join(kinds)}."
        for block in blocks:
            counts = [(row.name, row.metrics["passes"].mean) for row in block.rows if "passes" in row.metrics]
            told = ", ".join(f"{name} {count:,.0f}" for name, count in counts if not math.isnan(count))
            if told:
                yield (
                    f"Passes of samples are comparable (a forward and backward pass counts {FORWARDS}), "
                    f"{block.title.split(':')[0]}: {told}."
                )


def _legend(blocks: list[Block]) -> Iterator[str]:
    said = {flag for block in blocks for row in block.rows for flag in row.flags}
    yield from (text for flag, text in LEGEND.items() if flag in said)
