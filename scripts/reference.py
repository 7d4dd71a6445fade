"""Make the reference pages: every key of every configuration, and every method with its formula, needs and numbers.

python scripts/reference.py            writes docs/configuration.md and docs/method_reference.md
python scripts/reference.py --check    exits with code 1 where a page is not what the configurations say
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONF, DOCS = ROOT / "conf", ROOT / "docs"
NOT_KEYS = {"defaults", "hydra"}
OWN = {"name", "_target_"}  # of a file, not to be set
# Files with hundreds of numbers that a search found, not choices with a meaning each.
GROUPS_LEFT_OUT = {"tuned", "hydra"}
LONGEST = 200  # letters of a list or mapping that is shown as a value
HEAD = "<!-- made by scripts/reference.py: change the configurations instead -->"


class Key(NamedTuple):
    """Describe a key: its path, its default as written, the type of that, and the comment beside or above it."""

    path: str
    default: str
    type: str
    meaning: str


def keys_of(path: Path) -> list[Key]:
    """Read the keys of a yaml in order, with their comments."""
    text = path.read_text(encoding="utf-8")
    lines, root = text.splitlines(), yaml.compose(text)
    return [] if root is None else list(_keys(root, "", lines))


def _keys(node: yaml.MappingNode, prefix: str, lines: Sequence[str]) -> Iterator[Key]:
    for name, value in node.value:
        if not prefix and name.value in NOT_KEYS:
            continue
        path, row = f"{prefix}{name.value}", name.start_mark.line
        nested = isinstance(value, yaml.MappingNode) and value.start_mark.line != row and not value.flow_style
        meaning = _comment(lines, row, None if nested else value)
        if nested:
            if meaning:
                yield Key(path, "", "group", meaning)
            yield from _keys(value, f"{path}.", lines)
        else:
            yield Key(path, _written(value, lines), _type(value), meaning)


def _comment(lines: Sequence[str], row: int, value: yaml.Node | None) -> str:
    """Join the comment above a key, the one behind it, and the lines that continue that one.

    value: None for a group, whose other comments belong to its keys.
    """
    above: list[str] = []
    for line in reversed(lines[:row]):
        if not line.strip().startswith("#") or line.strip().startswith("# @") or _column(line) > _indent(lines[row]):
            break
        above.insert(0, line.strip().lstrip("# "))
    if row == len(above):  # the head of the file, which tells about all of it
        above = []
    if value is None:
        return _joined(above, [_behind(lines[row])])
    last = value.end_mark.line if value.end_mark.column else value.end_mark.line - 1
    behind = [part for part in (_behind(lines[number]) for number in range(row, max(row, last) + 1)) if part]
    for line in lines[max(row, last) + 1 :]:
        if not (line.strip().startswith("#") and _column(line) > _indent(lines[row])):
            break
        behind.append(line.strip().lstrip("# "))
    return _joined(above, behind)


def _joined(above: Sequence[str], behind: Sequence[str]) -> str:
    return "; ".join(part for part in (" ".join(above), " ".join(filter(None, behind))) if part)


def _behind(line: str) -> str:
    found = re.search(r"(?:^|\s)#\s?(.*)$", re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: "x" * len(quoted[0]), line))
    return line[found.start(1) :].strip() if found and not line.strip().startswith("#") else ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _column(line: str) -> int:
    return line.index("#")


def _written(node: yaml.Node, lines: Sequence[str]) -> str:
    """Give a value as it is written, on one line; a long one as the count of its entries."""
    start, end = node.start_mark, node.end_mark
    if isinstance(node, yaml.CollectionNode) and (not node.flow_style or end.index - start.index > LONGEST):
        return f"{len(node.value)} entries"
    rows = list(lines[start.line : end.line + 1])
    rows[-1] = rows[-1][: end.column]
    rows[0] = rows[0][start.column :]
    text = " ".join(" ".join(rows).split())
    return text if text or isinstance(node, yaml.CollectionNode) else "null"


def _type(node: yaml.Node) -> str:
    tag = str(node.tag).rpartition(":")[2]
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true, false", "seq": "list"}
    return words.get(tag, {"map": "mapping", "null": "–"}.get(tag, tag))


def head_of(path: Path) -> str:
    """Give the comment at the head of a yaml as one paragraph; "" without one."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines += [] if line.startswith("# @") else [line.lstrip("# ")]
    return " ".join(lines)


def table_of(keys: Sequence[Key]) -> str:
    """Write the keys as a Markdown table."""
    rows = [
        f"| `{key.path}` | {f'`{_cell(key.default)}`' if key.default else ''} | {key.type} | {_cell(key.meaning)} |"
        for key in keys
    ]
    return "\n".join(["| key | default | type | meaning |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def configuration() -> str:
    """Write docs/configuration.md: the keys of conf/config.yaml, then those of every choice of every group."""
    parts = [
        "# Every key",
        HEAD,
        "Set a key by `key=value`, choose a file of a group by `group=file`. `speechforget --cfg job` shows the values "
        "of a command. Keys of a group are written with the group: `train.epochs=5`.",
        "## All runs",
        table_of(keys_of(CONF / "config.yaml")),
    ]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name not in GROUPS_LEFT_OUT):
        parts.append(f"## {group.name}")
        for path in sorted(group.glob("*.yaml")):
            keys = [key for key in keys_of(path) if key.path.split(".")[-1] not in OWN]
            parts.append(f"### {group.name}={path.stem}")
            parts += [part for part in (_escaped(head_of(path)), table_of(keys) if keys else "") if part]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*")


def methods() -> str:
    """Write docs/method_reference.md: of each method paper, formula, what it reads, and its numbers."""
    parts = [
        "# Every method",
        HEAD,
        "The text is that of the method's file. *Reads* names the sets of recordings that a method asks for. "
        "[methods.md](methods.md) compares methods, and their seconds.",
    ]
    for path in sorted((CONF / "method").glob("*.yaml")):
        target = str(OmegaConf.load(path)["_target_"])
        module = target.rpartition(".")[0]
        found = importlib.util.find_spec(module)
        assert found is not None and found.origin is not None, module
        text = ast.get_docstring(ast.parse(Path(found.origin).read_text(encoding="utf-8"))) or ""
        requests = list(OmegaConf.load(path)["requests"])
        text = text.replace(":\n- ", ":\n\n- ")  # as Markdown wants a list
        parts += [f"## {path.stem}", text, f"*Requests*: {', '.join(requests)}. *Reads*: {_needs(target)}."]
        parts.append(table_of([key for key in keys_of(path) if key.path not in {*OWN, "requests"}]))
    return "\n\n".join(parts) + "\n"


def _needs(target: str) -> str:
    module, _, name = target.rpartition(".")
    needs = getattr(importlib.import_module(module), name).needs
    return ", ".join(sorted(needs)) if needs else "nothing"


PAGES = {"configuration.md": configuration, "method_reference.md": methods}


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or check them."""
    wrong = 0
    for name, make in PAGES.items():
        page, text = DOCS / name, make()
        if "--check" not in arguments:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            print(f"{page} is out of date: run python scripts/reference.py.", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
