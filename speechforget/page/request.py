"""The first screen of one result: the request, the models before and after, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from speechforget.evaluation.damage import harm_sentence
from speechforget.page.bands import Band, bands, without_numbers
from speechforget.record.entry import numbers_of

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
    policy: list[tuple[str, ...]]
    standards: list[tuple[str, ...]]
    ledger: list[tuple[str, ...]]


def readable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a record with its numbers by name, as `result.json` has them."""
    return {**entry, "comparison": {model: numbers_of(entry, model) for model in entry["comparison"]}}


def screen(entry: Mapping[str, Any], policy: Mapping[str, Any] | None = None) -> Screen:
    """Make the first screen of a result. entry: from `readable`. policy: with its outcomes, as in a record."""
    request, key = entry["request"], str(entry["key"])
    counts = request["counts"]
    title = f"{entry['method']} on {request['name']}"
    forgotten = f"{counts['forget']} of {counts['forget'] + counts['retain']} training recordings"
    withdrawn = f", {counts['withdrawn']} more withdrawn" if counts.get("withdrawn") else ""
    classes = f" (whole classes: {', '.join(request['classes'])})" if request.get("classes") else ""
    asked = [
        ("To be forgotten", forgotten + withdrawn),
        *_known_answer(entry),
        *_earlier(request),
        ("Compared with", f"{counts['nonmembers']} matching recordings that no model heard"),
    ]
    if request.get("kind") == "attribute":
        asked = [("To be removed", f"{request['by']}; recordings and labels stay")]
    facts = [
        ("Request", f"{request['name']}{classes}"),
        *asked,
        ("Corpus and model", f"{entry['dataset']} ({entry['label']}), {entry['model']}"),
        ("Method", str(entry["method"])),
        ("Seeds", ", ".join(f"{name} {value}" for name, value in entry["seeds"].items())),
        ("Model before", _model(entry, "original")),
        ("Model after", _model(entry, entry.get("delivered") or ITSELF)),
        ("Made", str(entry["made"] or "not recorded")),
    ]
    flags, warned = entry.get("flags") or {}, harm_sentence(entry["comparison"].get("original", {}))
    return Screen(
        key[:DIGITS],
        title,
        f"{title} ({key[:6]}): {', '.join(answer['word'] for answer in entry['verdict']) or 'no verdict'}",
        str(entry["made"] or ""),
        facts,
        list(request.get("hashes") or []),
        [_answer(entry, answer) for answer in entry["verdict"]],
        [str(sentence) for sentence in flags.values()] if isinstance(flags, Mapping) else [str(each) for each in flags],
        [str(note) for note in [entry.get("no_oracle"), *entry["notes"], entry.get("untried"), warned] if note],
        str(entry.get("command") or ""),
        key,
        list(_judged(policy, key)),
        [(row["requirement"], row["status"], row["why"]) for row in entry.get("standards") or []],
        list(_copies(entry.get("purge") or {})),
    )


def _known_answer(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the dataset changed in the recordings of the request, where its answer is known: keys, labels, ..."""
    by = entry["request"].get("by")
    changed = ((entry.get("settings") or {}).get("dataset") or {}).get(by)
    if isinstance(changed, Mapping):
        told = (", ".join(map(str, value)) if isinstance(value, list) else value for value in changed.values())
        values = (f"{name} {value}" for name, value in zip(changed, told, strict=True))
        yield "Changed on purpose", f"{by}: {', '.join(values)}"


def _earlier(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the original had forgotten before, and whether the method used it again."""
    if earlier := request.get("earlier"):
        names = [f"{each['name']} ({each['counts']['forget']} recordings)" for each in earlier]
        used = "used again by the method" if request["keep_forget"] else "not used by the method"
        yield "Forgotten before", f"{', then '.join(names)}; {used}"


def _judged(policy: Mapping[str, Any] | None, key: str) -> Iterator[tuple[str, ...]]:
    """Yield figure, threshold, number, status and source of each threshold of a policy."""
    for one in (policy or {"thresholds": []})["thresholds"]:
        outcome = one["outcomes"][key]
        measured = "–" if outcome["number"] is None else f"{outcome['number']:.3g}"
        status = f"{outcome['status']}: {outcome['reason']}" if outcome["reason"] else outcome["status"]
        threshold = f"{one['compare']} {one['direction']} {one['limit']:g}"
        yield one["figure"], threshold, measured, status, f"{one['source']} ({one['owner']})"


def _copies(ledger: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield what, state and reason of each copy in a ledger."""
    for state in ("gone", "kept", "unknown"):
        for entry in ledger.get(state) or []:
            yield str(entry.get("what") or entry.get("path")), state, str(entry.get("why") or entry.get("path") or "")


def _answer(entry: Mapping[str, Any], answer: Mapping[str, Any]) -> Answer:
    word, sentence = str(answer["word"]), str(answer["sentence"])
    style, mark = CLASSES.get(word, "little"), MARKS.get(word, "?")
    drawn, told = bands(entry, sentence), without_numbers(sentence)
    return Answer(answer["question"], word, style, mark, told, answer["strength"], drawn)


def _model(entry: Mapping[str, Any], name: str) -> str:
    """Tell the key and the hash of the weights of a model."""
    made = entry["models"].get(name)
    if made is None:
        return "not recorded"
    weights = [digest[:DIGITS] for digest in (made.get("weights") or {}).values()]
    return f"{name} {made['key'][:DIGITS]}, weights {', '.join(weights) or 'not here'}"
