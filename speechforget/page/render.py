"""Put a page together: the template, its style and scripts, and the data inside it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from speechforget import explain
from speechforget.errors import UserError
from speechforget.page.request import Screen
from speechforget.page.rows import Grid
from speechforget.record.canonical import RECORD, embed, island
from speechforget.record.standards import REQUIREMENTS
from speechforget.report.sequences import lines, sentences, title

SCRIPTS = ("page.js", "charts.js")
EARLY = 'document.documentElement.classList.add("js");'  # before the first paint, so that only one result is laid out


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


@functools.cache
def library() -> str:
    """Return the JavaScript of Vega-Lite, with all it needs."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


@functools.cache
def charts() -> dict[str, Any]:
    """Return title, description, labels and Vega-Lite specification of each chart."""
    return dict(json.loads(_asset("charts.json")))


def _allowed(script: str) -> str:
    """Return the hash by which the page's policy allows a script, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def render(
    record: dict[str, Any],
    screens: Sequence[Screen],
    grids: Sequence[Grid],
    attachments: Mapping[str, bytes],
    kept: int,
) -> str:
    """Return the HTML of a page with the record inside, which vouches for the rest of the page.

    attachments: canonical JSON by name. kept: number of results with charts.
    """
    from jinja2 import Environment, StrictUndefined

    script = "\n".join(map(_asset, SCRIPTS))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    contents = {RECORD: b"", **attachments}
    template = "\n".join(map(str.strip, _asset("page.html").splitlines()))  # a thousand results weigh less
    page = environment.from_string(template).render(
        title="Record of an erasure" if len(screens) == 1 else "Record of erasures",
        record=record,
        counts=_counts(record),
        screens=screens,
        grids=grids,
        turns=[(title(each), *lines(each), sentences(each)) for each in record.get("sequences", ())],
        runs=list(_runs(record)),
        charts=charts(),
        kept=kept,
        files=sum(map(len, record["evidence"]["folders"].values())),
        meanings=_meanings(screens),
        requirements=REQUIREMENTS.items(),
        style=_asset("page.css"),
        islands="\n".join(island(name, content) for name, content in contents.items()),
        library=library(),
        early=EARLY,
        script=script,
        allowed=" ".join(map(_allowed, (EARLY, library(), script))),
    )
    return embed(page, record)


def _counts(record: Mapping[str, Any]) -> str:
    kinds = (("failed", "failed"), ("missing", "missing"), ("not_applicable", "not applicable"))
    told = [f"{len(record[name])} {word}" for name, word in kinds if record[name]]
    results = len(record["results"])
    return f"{', '.join([f'{results} result' + ('s' if results > 1 else ''), *told])}."


def _runs(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the runs without a result: state, command or path, and reason."""
    states = (("failed", "failed"), ("missing", "missing"), ("not_applicable", "not applicable"))
    return [
        (word, str(run.get("command") or run.get("path")), str(run["reason"]))
        for name, word in states
        for run in record[name]
    ]


def _meanings(screens: Sequence[Screen]) -> list[tuple[str, str]]:
    """Explain every number that a verdict shows, once."""
    names = dict.fromkeys(band.name for screen in screens for answer in screen.answers for band in answer.bands)
    found = []
    for name in sorted(names):
        try:
            told = explain.find(name)
        except UserError:
            continue  # a figure of an audit, which docs/audit.md explains
        found.append((name, f"{told.fields['meaning']} Fooled by: {told.fields['fooled by']}"))
    return found
