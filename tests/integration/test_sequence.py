"""A sequence of requests as a whole: its models, its summary, what it shares, and what a report and a record show."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.user_checkpoints import only

from speechforget import pipeline
from speechforget.cli.plan import plan
from speechforget.cli.purge import purge
from speechforget.cli.report import main as report
from speechforget.cli.verify import main as verify
from speechforget.config.validate import check
from speechforget.data.requests.past import EARLIER, FORGOTTEN
from speechforget.export.bundle import bundle
from speechforget.page.request import readable, screen
from speechforget.pipeline import Pipeline
from speechforget.record.build import build
from speechforget.record.shared import expanded
from speechforget.stages.sequence import Steps
from speechforget.store import Store
from speechforget.store.gc import removable

IDENTITY = Path(__file__).parents[2] / "docs" / "identity.md"
pytestmark = pytest.mark.slow

Configure = Callable[..., dict[str, Any]]
ASKED = ["task=sample", "task.by=speaker", "task.requests=[speaker1,speaker2]", "method=finetune"]


@pytest.fixture(scope="module")
def turns(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a sequence of two speakers, with two oracles for each step."""
    output = tmp_path_factory.mktemp("turns")
    config = configure(f"output={output}", *ASKED, "evaluation.oracles=2")
    check(config)
    pipeline.run(config)
    return output


@pytest.fixture(scope="module")
def told(turns: Path) -> dict[str, Any]:
    return json.loads(only(list(turns.glob("sequence/*/sequence.json"))).read_text())


def test_each_step_is_an_ordinary_result(turns: Path, told: dict[str, Any], configure: Configure) -> None:
    results = {path.parent.name: json.loads(path.read_text()) for path in turns.glob("result/*/result.json")}
    assert len(results) == 3 and {each["result"] for each in told["requests"]} < set(results)
    second = results[told["requests"][1]["result"]]
    alone = Pipeline(
        configure(f"output={turns}", *ASKED, "task.requests=null", "task.values=[speaker1]", "evaluation.oracles=2"),
        Store(turns),
    ).result()
    assert not alone.built and alone.folder.name == told["requests"][0]["result"]
    assert second["request"]["earlier"][0]["name"] == "sample-speaker-speaker1"
    # The original of the second step is what the first step delivers.
    for cell in told["matrix"]:
        if (cell["after"], cell["request"], cell["metric"]) == (2, 2, "accuracy_forget"):
            assert cell["unlearned"] == second["comparison"]["unlearned"]["accuracy_forget"]["value"]
            assert cell["oracle"] == second["comparison"]["oracle"]["accuracy_forget"]["value"]


def test_the_table_of_keys_lists_its_inputs(turns: Path) -> None:
    inputs = json.loads(only(list(turns.glob("sequence/*/inputs.json"))).read_text())["inputs"]
    row = next(line for line in IDENTITY.read_text().splitlines() if line.startswith("| sequence |"))
    assert set(re.findall(r"`(\w+)`", row)) == set(inputs)


def test_oracles_of_one_set_are_shared(turns: Path) -> None:
    assert len(list(turns.glob("oracle/*/DONE"))) == 4  # two prefixes, two seeds; all at once needs none of its own
    assert len(list(turns.glob("unlearned/*/DONE"))) == 3
    names = {path.name.partition("-seed")[0] for path in turns.glob("oracle/*") if path.is_dir()}
    assert any(name.endswith("several-requests") for name in names)


def test_the_matrix_is_whole(told: dict[str, Any]) -> None:
    places = {(cell["after"], cell["request"]) for cell in told["matrix"]}
    assert places == {(1, 1), (2, 1), (2, 2)}
    assert {cell["metric"] for cell in told["matrix"]} == {"accuracy_forget", "loss_forget", "membership_auc"}
    first = {(each["request"], each["metric"]): each for each in told["revival"]}
    gaps = [cell["gap"] for cell in told["matrix"] if (cell["request"], cell["metric"]) == (1, "accuracy_forget")]
    assert first[1, "accuracy_forget"]["value"] == pytest.approx(gaps[1] - gaps[0])
    assert len(first[1, "accuracy_forget"]["null"]) == 1 and first[2, "loss_forget"]["value"] is None
    assert [cell["after"] for cell in told["drift"]] == [1, 2]
    assert told["cost"]["steps"]["passes"] > 0 and told["cost"]["oracles"]["seconds"] > 0
    assert {cell["request"] for cell in told["at_once"]} == {1, 2}


def test_the_files_are_a_table_and_a_picture(turns: Path, told: dict[str, Any]) -> None:
    folder = only([path for path in turns.glob("sequence/*") if path.is_dir()])
    table = pd.read_csv(folder / "sequence.csv")
    assert set(table["part"]) == {"matrix", "drift", "at_once", "revival"} and set(table["of"]) >= {"oracle"}
    mine = table[(table["part"] == "matrix") & (table["of"] == "unlearned")]
    assert len(mine) == len(told["matrix"])
    assert (folder / "sequence.png").stat().st_size > 10_000


def test_a_second_run_builds_nothing_and_a_plan_knows_it(turns: Path, configure: Configure, capsys) -> None:
    config = configure(f"output={turns}", *ASKED, "evaluation.oracles=2")
    before = sorted(turns.glob("*/*"))
    pipeline.run(config)
    assert sorted(turns.glob("*/*")) == before
    shown = capsys.readouterr().out
    assert "2 requests in turn" in shown and "revival" in shown and "Cost: all steps" in shown
    assert "Too few to judge the attack: fewer than 30 non-members for request 1, 2." in " ".join(shown.split())
    planned = plan(config)
    assert all(one.exists for one in planned) and planned[-1].stage == "sequence"
    other = plan(configure(f"output={turns}", *ASKED, "task.requests=[speaker2,speaker1]", "evaluation.oracles=2"))
    # The other order shares original, split and the oracles of both; the first wave of a sweep builds the others.
    assert {one.only for one in other if not one.exists and one.only} == {"oracle-step1", "oracle-seed1-step1"}


def test_only_builds_one_model_of_a_step(turns: Path, configure: Configure, capsys) -> None:
    config = configure(f"output={turns}", *ASKED, "evaluation.oracles=2", "only=oracle-seed1-step2")
    check(config)
    pipeline.run(config)
    assert "several-requests-seed1" in capsys.readouterr().out


def test_a_sequence_continues_a_result(turns: Path, told: dict[str, Any], configure: Configure, tmp_path: Path) -> None:
    start = f"original.result={turns / 'result' / told['requests'][0]['result']}"
    config = configure(f"output={turns}", *ASKED, start, "task.requests=[speaker2,speaker3]", "evaluation.oracles=2")
    check(config)
    steps = Steps(config, Store(turns), Pipeline)
    assert [len(run.request.past.requests) for run in steps.runs] == [1, 2]
    # The same request after the same one: nothing is unlearned again.
    first = steps.runs[0]
    assert not first.unlearned.built
    assert first.unlearned.folder in list(turns.glob("unlearned/*speaker2-after1*"))


def test_garbage_collection_keeps_a_sequence(turns: Path) -> None:
    found, _ = removable(turns, unreferenced_only=True, days=0)
    assert not found


def test_the_record_names_earlier_requests_by_counts_and_hashes(turns: Path, capsys) -> None:
    assert report([str(turns)]) == 0
    assert "Requests in turn" in (turns / "report.md").read_text() and (turns / "sequences.csv").exists()
    record = build(turns)
    entries = [readable(entry) for entry in expanded(record) if entry["request"].get("earlier")]
    (entry,) = entries
    (earlier,) = entry["request"]["earlier"]
    assert earlier["counts"]["forget"] > 0 and len(earlier["hashes"]) == earlier["counts"]["forget"]
    assert entry["request"]["keep_forget"] is False
    assert any(term == "Forgotten before" for term, _ in screen(entry).facts)
    (summary,) = record["sequences"]
    capsys.readouterr()
    assert verify([str(turns / "report.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("reproduced" in line for line in lines) == 4
    assert any(line.startswith("sequence/") and "reproduced" in line for line in lines)
    page = (turns / "report.html").read_text()
    assert "Requests unlearned one after another" in page
    assert "speaker1" not in json.dumps(record) and "speaker2" not in json.dumps(record)
    assert {name for path, files in record["evidence"]["folders"].items() if path == summary["path"] for name in files}


def test_a_purge_takes_the_lists_of_earlier_requests_and_keeps_the_models(
    turns: Path, told: dict[str, Any], tmp_path: Path
) -> None:
    output = Path(shutil.copytree(turns, tmp_path / "output"))
    first, second = (each["result"] for each in told["requests"])
    assert (output / "result" / second / EARLIER).exists()
    assert purge(output, first, yes=True, derived=False) == 0
    for stage in ("unlearned", "oracle", "result"):
        assert len(list(output.glob(f"{stage}/*/DONE"))) == len(list(turns.glob(f"{stage}/*/DONE")))
    assert not list(output.glob("unlearned/*/forgotten.json")) and not (output / "result" / second / EARLIER).exists()
    (request,) = [each["request"] for each in expanded(build(output)) if each["request"].get("earlier")]
    assert len(request["earlier"][0]["hashes"]) == told["requests"][0]["forget"]


def test_a_bundle_withholds_the_lists(turns: Path, told: dict[str, Any], tmp_path: Path) -> None:
    bundle(turns / "result" / told["requests"][1]["result"], tmp_path / "bundle")
    assert list((tmp_path / "bundle").glob("unlearned/*/weights.safetensors"))
    assert not [path for path in (tmp_path / "bundle").rglob("*.json") if path.name in (EARLIER, FORGOTTEN)]
