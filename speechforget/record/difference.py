"""Compare two records: results, settings, numbers, verdicts and policy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from speechforget.record.entry import numbers_of
from speechforget.record.shared import expanded
from speechforget.store.keys import differences

TOLERANCE = 1e-9  # relative above 1; below it, numbers differ by rounding only
SAME = ("dataset", "label", "model", "method")
FACTS = ("commit", "versions", "settings", "delivered", "no_oracle", "holdout", "flags", "purge")
ABSENT = "–"


class Line(NamedTuple):
    """Hold one difference: of which result (or ""), of what, and both sides."""

    result: str
    what: str
    one: str
    other: str


def compare_records(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Line]:
    """List what differs between two records; dates and paths do not count. Empty if nothing does."""
    return [*_results(expanded(one), expanded(other)), *_policies(one["policy"], other["policy"]), *_jobs(one, other)]


def _results(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    pairs, only_one, only_other = match(one, other)
    yield from (Line(_named(result), "result", result["key"][:12], ABSENT) for result in only_one)
    yield from (Line(_named(result), "result", ABSENT, result["key"][:12]) for result in only_other)
    for left, right in pairs:
        name = _named(left)
        if left["key"] != right["key"]:
            yield Line(name, "key", left["key"][:12], right["key"][:12])
        for fact in FACTS:
            for path, old, new in differences({fact: left[fact]}, {fact: right[fact]}):
                yield Line(name, path, _shown(old), _shown(new))
        yield from _verdicts(name, left["verdict"], right["verdict"])
        yield from _numbers(name, left, right)


def match(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Mapping[str, Any], Mapping[str, Any]]], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Pair results of the same key, then those alone with the same corpus, model, method, request and seeds.

    Returns the pairs, and the results that only one side has.
    """
    right = {result["key"]: result for result in other}
    pairs = [(result, right[result["key"]]) for result in one if result["key"] in right]
    taken = {result["key"] for result, _ in pairs}
    rest = [[result for result in side if result["key"] not in taken] for side in (one, other)]
    alike: dict[str, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
    for place, side in enumerate(rest):
        for result in side:
            alike.setdefault(_likeness(result), ([], []))[place].append(result)
    pairs += [(left[0], right[0]) for left, right in alike.values() if len(left) == len(right) == 1]
    alone = [group for group in alike.values() if not len(group[0]) == len(group[1]) == 1]
    return pairs, [result for left, _ in alone for result in left], [result for _, right in alone for result in right]


def _likeness(result: Mapping[str, Any]) -> str:
    request = result["request"]
    return json.dumps([*(result[name] for name in SAME), request["kind"], request["name"], result["seeds"]])


def _named(result: Mapping[str, Any]) -> str:
    return f"{result['method']} {result['dataset']} {result['request']['name']} seed{result['seeds']['seed']}"


def _verdicts(name: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    left, right = ({answer["question"]: answer["word"] for answer in side} for side in (one, other))
    for question in dict.fromkeys([*left, *right]):
        if left.get(question) != right.get(question):
            yield Line(name, question, left.get(question, ABSENT), right.get(question, ABSENT))


def _numbers(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Line]:
    for model in dict.fromkeys([*one["comparison"], *other["comparison"]]):
        left, right = numbers_of(one, model), numbers_of(other, model)
        for metric in dict.fromkeys([*left, *right]):
            values = [side.get(metric, {}).get("value") for side in (left, right)]
            if not _close(*values):
                yield Line(name, f"{metric} of {model}", *map(_shown, values))
    figures = [
        {(figure["name"], figure["model"]): figure["value"] for figure in (side["audit"] or {"figures": []})["figures"]}
        for side in (one, other)
    ]
    for figure in dict.fromkeys([*figures[0], *figures[1]]):
        values = [side.get(figure) for side in figures]
        if not _close(*values):
            yield Line(name, f"audit: {figure[0]} of {figure[1]}", *map(_shown, values))


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _policies(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Iterator[Line]:
    for path, old, new in differences({"policy": _by_figure(one)}, {"policy": _by_figure(other)}):
        yield Line("", path, _shown(old), _shown(new))


def _by_figure(policy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return thresholds by figure, so that one more moves no other."""
    if policy is None:
        return None
    thresholds = {f"{each['figure']} {each['direction']} ({each['compare']})": each for each in policy["thresholds"]}
    return {**policy, "thresholds": thresholds}


def _jobs(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Line]:
    for kind in ("failed", "missing", "not_applicable"):
        left, right = (
            {job.get("command") or job["path"]: job["reason"] for job in side[kind]} for side in (one, other)
        )
        for job in dict.fromkeys([*left, *right]):
            if left.get(job) != right.get(job):
                yield Line(job, kind.replace("_", " "), left.get(job, ABSENT), right.get(job, ABSENT))


def _shown(value: Any) -> str:
    if value is None:
        return ABSENT
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
