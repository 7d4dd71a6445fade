"""docs/identity.md says what is in the keys that the pipeline really uses."""

import json
import re
from pathlib import Path

import pytest

from speechforget import pipeline
from speechforget.store import key_of

DOCUMENT = Path(__file__).parents[1] / "docs" / "identity.md"
ROW = re.compile(r"\| (?P<stage>\w+) \| (?P<inputs>(?:`\w+`(?:, )?)+) \| .+ \|")


@pytest.fixture(scope="module")
def recorded(configure, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict]:
    """inputs.json of every artefact of one run."""
    output = tmp_path_factory.mktemp("identity")
    pipeline.run(configure(f"output={output}", "train.epochs=1", "method=ssd"))
    return {path.parent: json.loads(path.read_text()) for path in output.glob("*/*/inputs.json")}


def documented() -> dict[str, set[str]]:
    rows = [found for line in DOCUMENT.read_text().splitlines() if (found := ROW.fullmatch(line))]
    return {row["stage"]: set(re.findall(r"`(\w+)`", row["inputs"])) for row in rows}


def test_the_table_lists_the_inputs_of_every_stage(recorded: dict[Path, dict]) -> None:
    used = {record["stage"]: set(record["inputs"]) for record in recorded.values()}
    assert documented() == used


def test_a_folder_is_named_by_its_inputs(recorded: dict[Path, dict]) -> None:
    for folder, record in recorded.items():
        key = key_of(record["stage"], record["inputs"])
        assert folder.name.endswith(f"-{key[:12]}")
        done = json.loads((folder / "DONE").read_text())
        assert done["key"] == key
        assert "inputs.json" in done["files"] and "DONE" not in done["files"]


def test_the_original_of_the_table_knows_no_request(recorded: dict[Path, dict]) -> None:
    (original,) = [record for record in recorded.values() if record["stage"] == "original"]
    assert original["inputs"]["without"] is None
