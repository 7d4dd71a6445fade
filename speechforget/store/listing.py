"""Format the output of `ls`, `show` and `verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from speechforget.store.files import read_json
from speechforget.store.folder import KEY_DIGITS
from speechforget.store.graph import Node
from speechforget.store.holders import describe
from speechforget.store.manifest import damage, files_of, read_done

HEADER = ("stage", "name", "key", "size", "seconds", "state", "results")


def table(nodes: list[Node]) -> str:
    """Format one line per artefact. Column results: how many results depend on it."""
    rows = [
        (node.stage, node.name, node.digits, size(node.size), _number(node.seconds), _state(node), str(node.results))
        for node in nodes
    ]
    widths = [max(len(row[column]) for row in [HEADER, *rows]) for column in range(len(HEADER))]
    right = {"size", "seconds", "results"}
    lines = []
    for row in [HEADER, *rows]:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, HEADER, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_json(nodes: list[Node]) -> str:
    """Format the same as JSON, with sizes in bytes, unrounded seconds, whole keys, and parents as keys."""
    rows = [
        {
            "stage": node.stage,
            "name": node.name,
            "key": node.key,
            "folder": str(node.folder),
            "bytes": node.size,
            "seconds": node.seconds,
            "state": node.state,
            "holder": node.holder,
            "problems": node.problems,
            "results": node.results,
            "parents": [parent.key for parent in node.parents],
        }
        for node in nodes
    ]
    return json.dumps(rows, indent=1)


def size(count: int) -> str:
    """Format a number of bytes with a decimal unit."""
    if count < 1000:
        return f"{count} B"
    number = float(count)
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.5:
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    return f"{number / 1000:.1f} TB"


def _number(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _state(node: Node) -> str:
    return f"in use: {describe(node.holder)}" if node.state == "in use" and node.holder is not None else node.state


def details(node: Node) -> str:
    """Format everything about one artefact: parents, children, inputs, files, cost and commit."""
    about, cost = (read_json(node.folder / f"{name}.json") for name in ("about", "cost"))
    record = read_done(node.folder)
    lines = [
        str(node.folder),
        f"key      {node.key or node.digits + '...'}",
        f"state    {_state(node)}{'; ' if node.problems else ''}{'; '.join(node.problems)}",
        f"results  {node.results}",
    ]
    lines += [f"built    {about['time']} on {about['host']}, commit {about['commit'] or 'unknown'}"] if about else []
    lines += [f"cost     {', '.join(f'{name} {value}' for name, value in cost.items())}"] if cost else []
    lines += ["", "depends on", *_tree(node, "parents"), "", "used by", *_tree(node, "children"), "", "inputs"]
    lines += [f"  {line}" for line in json.dumps(node.inputs, indent=1, ensure_ascii=False).splitlines()]
    lines += ["", "files"]
    recorded = record["files"] if record else {}
    for path in files_of(node.folder):
        name = path.relative_to(node.folder).as_posix()
        digits = recorded.get(name, {}).get("sha256", "not recorded")[:KEY_DIGITS]
        lines.append(f"  {size(path.stat().st_size):>8}  {digits}  {name}")
    return "\n".join(lines)


def _tree(node: Node, direction: str) -> list[str]:
    """List parents or children recursively, indented; follow each artefact once."""
    lines: list[str] = []
    seen: set[str] = set()

    def add(relatives: list[Node], indent: str) -> None:
        for relative in relatives:
            name = f"{relative.stage}/{relative.folder.name}"
            state = "" if relative.state == "done" else f" ({_state(relative)})"
            lines.append(f"{indent}{name}{state}")
            if name not in seen:
                seen.add(name)
                add(getattr(relative, direction), indent + "  ")

    add(getattr(node, direction), "  ")
    return lines or ["  nothing"]


def faults(node: Node) -> Iterator[str]:
    """Yield the problems of a finished artefact after comparing every byte."""
    record = read_done(node.folder)
    if record is None:
        return
    sizes = {f"{name} {what}" for name, what in damage(node.folder, record)}
    yield from (f"{name} {what}" for name, what in damage(node.folder, record, hashes=True))
    yield from (problem for problem in node.problems if problem not in sizes)
