"""The table of docs/identity.md: what the key of each stage contains."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "identity.md"
ROW = re.compile(r"\| (?P<stage>\w+) \| (?P<inputs>(?:`\w+`(?:, )?)+) \| .+ \|")


def documented() -> dict[str, set[str]]:
    """Return the inputs by stage."""
    rows = [found for line in DOCUMENT.read_text().splitlines() if (found := ROW.fullmatch(line))]
    return {row["stage"]: set(re.findall(r"`(\w+)`", row["inputs"])) for row in rows}


def recorded(output: Path) -> dict[str, set[str]]:
    """Return the inputs by stage of the artefacts below an output folder."""
    records = [json.loads(path.read_text()) for path in sorted(output.glob("*/*/inputs.json"))]
    return {record["stage"]: set(record["inputs"]) for record in records}
