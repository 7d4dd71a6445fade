"""A small grammar of commands and statements: all its sentences, form by form."""

from __future__ import annotations

from itertools import product

WORDS = {
    "action": ["open", "close", "find", "clean", "check", "move", "carry", "hide"],
    "thing": [
        "door",
        "window",
        "lamp",
        "box",
        "table",
        "bottle",
        "kettle",
        "map",
        "radio",
        "clock",
        "jacket",
        "mirror",
    ],
    "place": ["kitchen", "garden", "cellar", "hall", "office", "garage", "attic", "bedroom"],
    "name": ["anna", "ben", "carla", "david", "emma", "frank", "julia", "peter"],
    "number": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
    "time": ["now", "today", "tonight", "tomorrow", "later"],
    "state": ["empty", "broken", "heavy", "warm", "clean", "open", "red", "yellow"],
    "goods": ["apples", "letters", "tickets", "candles", "pencils", "onions"],
}
# Three to six words each. No two forms share a sentence.
FORMS = (
    "{action} the {thing} {time}",
    "{action} the {thing} in the {place}",
    "set the {thing} to {number}",
    "the {thing} is {state}",
    "call {name} at {number} {time}",
    "{name} is in the {place} {time}",
    "bring {number} {goods} to {name}",
    "{name} found {number} {goods}",
    "call {name} {time}",
    "play {number} songs {time}",
    "is the {thing} {state}",
)


def sentences() -> list[list[str]]:
    """List the sentences of each form, in lower case and without punctuation."""
    return [_of(form) for form in FORMS]


def _of(form: str) -> list[str]:
    slots = [name for name in WORDS if f"{{{name}}}" in form]
    return [form.format(**dict(zip(slots, words, strict=True))) for words in product(*(WORDS[slot] for slot in slots))]
