"""Which module's edit changes the keys of which stages: the table of docs/identity.md.

python scripts/code_table.py            writes it into the page
python scripts/code_table.py --print    prints it
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from speechforget.config.inputs import CODE, metrics_in
from speechforget.store import code_modules
from speechforget.store.code import PACKAGE, SILENT, is_silent

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "identity.md"
BEGIN, END = "<!-- scripts/code_table.py: begin -->", "<!-- scripts/code_table.py: end -->"
GROUPS = {
    "original": "model",
    "original of a checkpoint": "model",
    "oracle": "model",
    "unlearned": "method",
    "untrained": "model",
}  # what a config chooses for a stage


class Keys(NamedTuple):
    """The stages whose keys hold a module: always, or where a config chooses what is made of it."""

    always: tuple[str, ...]
    chosen: tuple[str, ...]


def shipped() -> dict[str, list[str]]:
    """For each stage, the dotted names that the configs of this package can choose."""
    named = {
        group: sorted({str(OmegaConf.load(path)["_target_"]) for path in (ROOT / "conf" / group).glob("*.yaml")})
        for group in ("model", "method")
    }
    evaluations = [OmegaConf.load(path) for path in sorted((ROOT / "conf" / "evaluation").glob("*.yaml"))]
    metrics = sorted({path for each in evaluations for path in metrics_in(each)})
    attacks = sorted({str(options["_target_"]) for each in evaluations for options in each.get("attacks", [])})
    importances = ["speechforget.methods.common.importance"]
    return {stage: named.get(GROUPS.get(stage, ""), []) for stage in CODE} | {
        "attack": attacks,
        "result": metrics,
        "importance": importances,
    }


def modules() -> list[str]:
    """Every module of this package that may compute a number."""
    found = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name not in {"__init__.py", "__main__.py"} and not is_silent(name):
            found.append(name)
    return found


@functools.cache
def table() -> dict[str, Keys]:
    """For every module the stages whose keys hold it."""
    always = {stage: set(code_modules(*code.roots, stops=code.stops)) for stage, code in CODE.items()}
    chosen = {
        stage: set(code_modules(*code.roots, *shipped()[stage], stops=code.stops)) for stage, code in CODE.items()
    }
    return {
        name: Keys(
            tuple(stage for stage in CODE if name in always[stage]),
            tuple(stage for stage in CODE if name in chosen[stage] - always[stage]),
        )
        for name in modules()
    }


def text() -> str:
    """The table as Markdown: modules of the same stages share a line."""
    lines: dict[Keys, list[str]] = {}
    for name, keys in table().items():
        lines.setdefault(keys, []).append(f"`{name.removeprefix(f'{PACKAGE}.')}`")
    rows = ["| modules | in the key of |", "|---|---|"]
    for keys in sorted(
        lines,
        key=lambda keys: (
            not keys.always,
            not keys.chosen,
            [list(CODE).index(stage) for stage in keys.always + keys.chosen],
        ),
    ):
        chosen = f"where the config chooses it: {', '.join(keys.chosen)}" if keys.chosen else ""
        rows.append(
            f"| {' '.join(lines[keys])} | {'; '.join(filter(None, [', '.join(keys.always), chosen])) or 'none'} |"
        )
    rows += ["", "| computes no number | what it does |", "|---|---|"]
    rows += [f"| `{name.removeprefix(f'{PACKAGE}.')}` | {reason} |" for name, reason in SILENT.items()]
    return "\n".join(rows)


def main() -> None:
    """Writes the table between its two marks, or prints it."""
    if "--print" in sys.argv[1:]:
        print(text())
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text()}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
