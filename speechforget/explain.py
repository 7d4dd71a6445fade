"""Explain what the numbers of a result mean: `speechforget explain NAME`, or `python -m speechforget.explain NAME`.

The texts stand where a number is computed, below the word `Explanation:` of the docstring. They are read from the
source, so nothing heavy is imported, and no list must be kept.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from speechforget.errors import UserError, nearest

PACKAGE = Path(__file__).parent
# Folders with numbers that are explained -> their heading on the page.
FOLDERS = {
    "evaluation": "Metrics of score tables",
    "attacks": "Attacks on models",
    "evaluation/audit": "Figures of an audit",
}
MARK = "Explanation:"
RETURNED = ("dict[str, Value]", "dict[str, Judgement]")
FIELDS = ("values", "meaning", "formula", "unit", "aim", "fooled by", "source")
FIELD = re.compile(rf"({'|'.join(FIELDS)}): ")
HOLE = re.compile(r"<\w+>")
WIDTH = 100
INTRODUCTION = """\
# Metrics

Every number of `result.json`, where it comes from, and what fools it. The text is that of the code
(`python -m speechforget.explain --page docs/metrics.md` writes this page); `speechforget explain NAME` prints a part.

No number is good or bad in itself: the aim is what an oracle has. Three oracles or more give `null_low` and
`null_high`: the smallest and the largest value with an oracle in the model's place. This band is no interval: a further
oracle lies outside that of K others with probability 2 / (K + 1). Where there is no number, `reason` says why."""


class Explanation(NamedTuple):
    """Hold what is said about the numbers of one function or class.

    summary: the first sentence of its docstring. fields: a text for each of `FIELDS`.
    """

    name: str
    module: str
    folder: str
    summary: str
    fields: dict[str, str]

    @property
    def values(self) -> tuple[str, ...]:
        """Return the names of its values; `<subset>` and the like stand for a word."""
        return tuple(re.split(r",\s*", self.fields["values"]))


class Computed(NamedTuple):
    """Hold a function or class that computes numbers of a result. text: its docstring, or that of `__call__`."""

    name: str
    module: str
    folder: str
    text: str


@functools.cache
def computed() -> tuple[Computed, ...]:
    """List everything that computes numbers of a result, explained or not, by folder and name.

    These are the public functions of two arguments, as (tables, model), that return values by name, the public classes
    of which a call does, and whatever else has an explanation, private or not.
    """
    found = []
    for folder in FOLDERS:
        for path in sorted((PACKAGE / folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            module = ".".join(("speechforget", *path.relative_to(PACKAGE).with_suffix("").parts))
            for node in tree.body:
                function = _call_of(node) if isinstance(node, ast.ClassDef) else node
                if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not isinstance(function, ast.FunctionDef):
                    continue
                text = ast.get_docstring(function) or ""
                returned = ast.unparse(function.returns) if function.returns else ""
                if len(function.args.args) != 2 or (folder == "attacks" and isinstance(node, ast.FunctionDef)):
                    returned = ""  # it helps a metric (tables, model), or an attack, which is a class
                if MARK in text or (returned in RETURNED and not node.name.startswith("_")):
                    found.append(Computed(node.name, module, folder, text))
    return tuple(found)


def _call_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    """Return `__call__` of a class; None for a protocol, which computes nothing."""
    if "Protocol" in map(ast.unparse, node.bases):
        return None
    return next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__call__"), None)


@functools.cache
def explanations() -> tuple[Explanation, ...]:
    """Read all explanations. Raises ValueError for one that lacks a field."""
    return tuple(_read(thing) for thing in computed() if MARK in thing.text)


def unexplained() -> list[str]:
    """Name what computes numbers of a result and has no explanation."""
    return [f"{thing.module}.{thing.name}" for thing in computed() if MARK not in thing.text]


def _read(thing: Computed) -> Explanation:
    text = thing.text.partition(MARK)[2]
    fields: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(text).splitlines():
        if match := FIELD.match(line):
            name, line = match[1], line[match.end() :]  # noqa: PLW2901
        fields[name] = f"{fields.get(name, '')} {line.strip()}".strip()
    if tuple(fields) != FIELDS:
        raise ValueError(f"the explanation of {thing.name} must have the fields {', '.join(FIELDS)}, in this order")
    summary = thing.text.partition("\n\n")[0].replace("\n", " ")
    return Explanation(thing.name, thing.module, thing.folder, summary, fields)


def _fit(pattern: str, name: str) -> int:
    """Return how many letters of a value's name a pattern fixes; -1 if it does not fit."""
    parts = HOLE.split(pattern)
    fits = re.fullmatch(r"[\w.-]+".join(map(re.escape, parts)), name)
    return sum(map(len, parts)) if fits else -1


def find(name: str) -> Explanation:
    """Find the explanation of a value, a function or a class; of several patterns the most precise one counts.

    Raises UserError for an unknown name, with the nearest known one.
    """
    best = max(explanations(), key=lambda one: max(_fit(pattern, name) for pattern in one.values))
    if max(_fit(pattern, name) for pattern in best.values) >= 0:
        return best
    for one in explanations():
        if name in (one.name, f"{one.module}.{one.name}", *one.values):
            return one
    known = {known for one in explanations() for known in (one.name, *one.values)}
    raise UserError(f"Nothing computes a number '{name}': {nearest(name, known)}.")


def describe(one: Explanation) -> str:
    """Write an explanation for a terminal."""
    lines = [one.summary, ""]
    for field, text in one.fields.items():
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"{field:<11}", subsequent_indent=" " * 11)
    return "\n".join([*lines, "", f"computed by {one.module}.{one.name}"])


def listing() -> str:
    """Write one line for each explanation."""
    width = max(len(one.name) for one in explanations())
    lines = []
    for folder, heading in FOLDERS.items():
        mine = [one for one in explanations() if one.folder == folder]
        lines += [f"{heading}:", *(f"  {one.name:<{width}}  {one.summary}" for one in mine), ""] if mine else []
    return "\n".join(
        [*lines, "speechforget explain NAME prints more; NAME is one of these or of a value in result.json."]
    )


def page() -> str:
    """Write the page of the documentation."""
    return "\n\n".join([INTRODUCTION, *_sections()]) + "\n"


def _sections() -> Iterator[str]:
    for folder, heading in FOLDERS.items():
        mine = [one for one in explanations() if one.folder == folder]
        if mine:
            yield f"## {heading}"
        for one in mine:
            names = ", ".join(f"`{name}`" for name in one.values)
            rows = [f"| {field} | {_cell(field, text)} |" for field, text in one.fields.items() if field in FIELDS[2:]]
            table = "\n".join(["| | |", "|---|---|", *rows, f"| code | `{one.module}.{one.name}` |"])
            yield "\n\n".join([f"### {one.name}", names, f"{one.summary} {one.fields['meaning']}", table])


def _cell(field: str, text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if field == "formula" else escaped.replace("<", "&lt;")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the explanation of a number, or a list of all; return the exit code."""
    parser = argparse.ArgumentParser("speechforget explain", description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", help="a value in result.json, a metric or an attack; none: list all")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page of the documentation to FILE")
    asked = parser.parse_args(arguments)
    if asked.page:
        asked.page.write_text(page(), encoding="utf-8")
        return 0
    try:
        print(describe(find(asked.name)) if asked.name else listing())
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
