"""The first screen of one result: the request, the models before and after, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from speechforget.page.bands import Band, bands
from speechforget.record.entry import numbers

DIGITS = 12  # of a key or of a hash of weights
CLASSES = {"under": "under", "within": "within", "over": "over"}
MARKS = {"under": "▲", "within": "●", "over": "▼"}  # a word is told apart without its color
ITSELF = "unlearned"


@dataclass(frozen=True)
class Answer:
    """Hold one answer of a verdict. style: how its word is drawn. mark: a sign beside the word."""

    question: str
    word: str
    style: str
    mark: str
    sentence: str
    strength: str
    bands: list[Band]


@dataclass(frozen=True)
class Screen:
    """Hold what the first screen of a result shows. facts: pairs of a term and its text."""

    identity: str
    title: str
    short: str
    made: str
    facts: list[tuple[str, str]]
    hashes: list[str]
    answers: list[Answer]
    flags: list[str]
    notes: list[str]
    command: str
    key: str
    entry: Mapping[str, Any] = field(repr=False)


def readable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a record with its numbers by name, as `result.json` has them."""
    comparison = {
        model: {name: numbers(row) for name, row in metrics.items()} for model, metrics in entry["comparison"].items()
    }
    return {**entry, "comparison": comparison}


def screen(entry: Mapping[str, Any]) -> Screen:
    """Make the first screen of a result. entry: from `readable`."""
    request, key = entry["request"], str(entry["key"])
    counts = request["counts"]
    title = f"{entry['method']} on {request['name']}"
    forgotten = f"{counts['forget']} of {counts['forget'] + counts['retain']} training recordings"
    withdrawn = f", {counts['withdrawn']} more withdrawn" if counts.get("withdrawn") else ""
    classes = f" (whole classes: {', '.join(request['classes'])})" if request.get("classes") else ""
    facts = [
        ("Request", f"{request['name']}{classes}"),
        ("To be forgotten", forgotten + withdrawn),
        ("Compared with", f"{counts['nonmembers']} matching recordings that no model heard"),
        ("Corpus and model", f"{entry['dataset']} ({entry['label']}), {entry['model']}"),
        ("Method", str(entry["method"])),
        ("Seeds", ", ".join(f"{name} {value}" for name, value in entry["seeds"].items())),
        ("Model before", _model(entry, "original")),
        ("Model after", _model(entry, entry.get("delivered") or ITSELF)),
        ("Made", str(entry["made"] or "not recorded")),
    ]
    flags = entry.get("flags") or {}
    return Screen(
        key[:DIGITS],
        title,
        f"{title} ({key[:6]}): {', '.join(answer['word'] for answer in entry['verdict']) or 'no verdict'}",
        str(entry["made"] or ""),
        facts,
        list(request.get("hashes") or []),
        [_answer(entry, answer) for answer in entry["verdict"]],
        [str(sentence) for sentence in flags.values()] if isinstance(flags, Mapping) else [str(each) for each in flags],
        [str(note) for note in [entry.get("no_oracle"), *entry["notes"], entry.get("untried")] if note],
        str(entry.get("command") or ""),
        key,
        entry,
    )


def _answer(entry: Mapping[str, Any], answer: Mapping[str, Any]) -> Answer:
    word = str(answer["word"])
    drawn = bands(entry, answer["evidence"])
    style, mark = CLASSES.get(word, "little"), MARKS.get(word, "?")
    return Answer(answer["question"], word, style, mark, answer["sentence"], answer["strength"], drawn)


def _model(entry: Mapping[str, Any], name: str) -> str:
    """Tell the key and the hash of the weights of a model."""
    made = entry["models"].get(name)
    if made is None:
        return "not recorded"
    weights = [digest[:DIGITS] for digest in (made.get("weights") or {}).values()]
    return f"{name} {made['key'][:DIGITS]}, weights {', '.join(weights) or 'not here'}"
