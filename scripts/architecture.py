"""Draw docs/architecture.svg: the folders of the package as floors, from the imports of its modules.

python scripts/architecture.py

A folder stands above every folder that it imports. A line leads from a folder to what it imports; a line is left out
where a longer way through other folders leads there, too.
"""

from __future__ import annotations

import ast
import functools
import graphlib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "speechforget"
PICTURE = ROOT / "docs" / "architecture.svg"
# For users, to what stands above.
SHORTCUTS = {"speechforget/__init__.py", "speechforget/report/__main__.py", "speechforget/store/__main__.py"}
WIDTH, BOX, GAP, HEIGHT, FLOOR = 1180, 178, 18, 58, 104  # pixels


def modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, deferred imports included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else node.module for name in full}
    return {name for name in found if name.partition(".")[0] == PACKAGE.name}


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a folder of this package."""
    stem = ROOT.joinpath(*name.split("."))
    return stem.is_dir() or stem.with_suffix(".py").is_file()


def folder(name: str) -> str:
    """The folder of a module, or the module itself where it is loose: `speechforget.store.keys` is in `store`."""
    return name.split(".")[1] if "." in name else ""


def graph() -> dict[str, set[str]]:
    """Each folder and loose module -> the others that it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if str(path.relative_to(ROOT)) in SHORTCUTS:
            continue
        mine = folder(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found.setdefault(mine, set()).update(map(folder, modules(path)))
    return {name: others - {name, ""} for name, others in found.items()}


def floors(imports: dict[str, set[str]]) -> dict[str, int]:
    """Each folder -> its floor: 0 imports nothing, any other is one above the highest that it imports."""
    found: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(imports).static_order():
        found[name] = 1 + max((found[other] for other in imports[name]), default=-1)
    return found


def direct(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that no way through a third folder explains."""

    @functools.cache
    def below(name: str) -> frozenset[str]:
        return frozenset(imports[name]).union(*(below(other) for other in imports[name]))

    return [
        (name, other)
        for name in sorted(imports)
        for other in sorted(imports[name])
        if not any(other in below(third) for third in imports[name] - {other})
    ]


def purpose(name: str) -> tuple[str, str]:
    """A folder's or module's first sentence and, of a folder, how many modules it has."""
    path = PACKAGE / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").split("\n")[0]
    count = len([each for each in path.rglob("*.py") if each.name != "__init__.py"])
    return text, f"{count} modules" if path.is_dir() else "one module"


def wrapped(text: str, width: int = 30, lines: int = 2) -> list[str]:
    """A text in a few short lines; three dots stand for the rest."""
    found = [""]
    for word in text.split():
        if len(found[-1]) + len(word) >= width:
            found.append("")
        found[-1] = f"{found[-1]} {word}".strip()
    return found if len(found) <= lines else [*found[: lines - 1], f"{found[lines - 1]} ..."]


def picture() -> str:
    """The picture as SVG."""
    imports = graph()
    level = floors(imports)
    top = max(level.values())
    places: dict[str, tuple[float, float]] = {}
    for number in range(top + 1):
        names = sorted(name for name in level if level[name] == number)
        left = (WIDTH - len(names) * (BOX + GAP) + GAP) / 2
        for index, name in enumerate(names):
            places[name] = (left + index * (BOX + GAP), 14 + (top - number) * FLOOR)
    shapes = []
    for name, other in direct(imports):
        (x, y), (to_x, to_y) = places[name], places[other]
        x, y, to_x, middle = x + BOX / 2, y + HEIGHT, to_x + BOX / 2, (y + HEIGHT + to_y) / 2
        way = f"M{x:g},{y:g} C{x:g},{middle:g} {to_x:g},{middle:g} {to_x:g},{to_y:g}"
        shapes.append(f'<path d="{way}" fill="none" stroke="#9aa7b4"/>')
    for name, (x, y) in places.items():
        text, count = purpose(name)
        shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#eef3f8" stroke="#4a6785"/>'
        )
        shapes.append(f'<text x="{x + 8:g}" y="{y + 18:g}" font-weight="bold">{escape(name)}</text>')
        shapes.append(f'<text x="{x + BOX - 8:g}" y="{y + 18:g}" class="small" text-anchor="end">{count}</text>')
        for index, line in enumerate(wrapped(text)):
            shapes.append(f'<text x="{x + 8:g}" y="{y + 34 + 14 * index:g}" class="small">{escape(line)}</text>')
    height = (top + 1) * FLOOR
    style = (
        ".box{fill:#eef3f8;stroke:#4a6785}text{font:13px sans-serif;fill:#1d2b3a}.small{font-size:10.5px;fill:#43566b}"
    )
    box = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    paper = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([box, f"<style>{style}</style>", paper, *shapes, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
