"""The summary of requests in turn: table, sentences, CSV rows and picture, of numbers that can be checked by hand."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from speechforget.report.sequences import (
    FIGURES,
    lines,
    print_sequence,
    read_sequences,
    rows_csv,
    sentences,
    sequences_markdown,
    write_sequence,
)
from speechforget.store.manifest import write_done


def cell(after: int, request: int, metric: str, unlearned: float, oracle: float | None) -> dict[str, Any]:
    interval = {"low": unlearned - 0.1, "high": unlearned + 0.1, "count": 20, "gap": 0.0}
    return {
        **{"after": after, "request": request, "metric": metric, "original": 1.0, "oracle": oracle},
        **{"unlearned": unlearned, **interval},
    }


def made(oracle: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    """Two requests: the first comes back by 10 points after the second."""
    metrics = [figure.metric for figure in FIGURES]
    places = ((1, 1, 0.4), (2, 1, 0.5), (2, 2, 0.3))
    return {
        **{"dataset": "espeak", "label": "word", "model": "tcresnet", "method": "scrub", "seed": 0},
        "keep_forget": False,
        "oracles": 2,
        "requests": [{"name": "sample-a", "nonmembers": 500}, {"name": "sample-b-after1", "nonmembers": 5}],
        "matrix": [cell(*place[:2], metric, place[2], oracle) for metric in metrics for place in places],
        "at_once": [cell(2, request, metric, 0.2, oracle) for metric in metrics for request in (1, 2)],
        "drift": [cell(after, 1, "accuracy_test", 0.9 - after / 10, oracle) for after in (1, 2)],
        "revival": [
            {"request": 1, "after": 2, "metric": metric, "value": 0.1, "null": [0.02, -0.03]} for metric in metrics
        ]
        + [{"request": 2, "after": 2, "metric": metric, "value": None, "null": []} for metric in metrics],
        "cost": {
            "steps": {"seconds": 2.0, "passes": 1500},
            "at_once": {"seconds": 1.0, "passes": 0},
            "oracles": {"seconds": 30.0, "passes": 90000},
        },
        **changes,
    }


def test_the_table_has_a_row_for_each_state_and_a_column_for_each_request() -> None:
    headings, rows = lines(made())
    assert headings == ["", "1 sample-a", "2 sample-b"]
    assert rows[:4] == [
        ["accuracy %, after 1", "40.0 (50.0)", ""],
        ["accuracy %, after 2", "50.0 (50.0)", "30.0 (50.0)"],
        ["accuracy %, at once", "20.0 (50.0)", "20.0 (50.0)"],
        ["accuracy %, revival", "+10.0 (null -3.0 to +2.0)", "–"],
    ]
    assert len(rows) == 4 * len(FIGURES)
    without = lines(made(oracle=None))[1]
    assert without[0][1] == "40.0" and "(" not in without[2][1]


def test_sentences_tell_the_setting_drift_cost_and_what_is_missing() -> None:
    said = " ".join(sentences(made()))
    assert "could not use what earlier requests forgot (task.keep_forget=false)" in said
    assert "original 100.0 %, 80.0 % after 1 (oracle 50.0), 70.0 % after 2 (oracle 50.0)." in said
    assert "all steps 2.0 s and 1,500 passes, the same at once 1.0 s, an oracle for each step 30.0 s" in said
    assert "non-members for request 2." in said and "One oracle for each step" not in said
    alone = " ".join(sentences(made(oracles=1, oracle=None, keep_forget=True)))
    assert "could use" in alone and "One oracle for each step gives no null" in alone and "oracle 50.0" not in alone


def test_files_page_and_terminal_hold_the_same_numbers(tmp_path: Path, capsys) -> None:
    told = made()
    write_sequence(tmp_path, told)
    assert json.loads((tmp_path / "sequence.json").read_text()) == told
    assert (tmp_path / "sequence.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sequence.csv").read_text())))
    assert (tmp_path / "sequence.csv").read_text() == rows_csv([told])
    cells = sum(len(told[part]) for part in ("matrix", "drift", "at_once"))
    assert len(rows) == 3 * cells + len(told["revival"])
    back = [row for row in rows if (row["part"], row["request"], row["metric"]) == ("revival", "1", "accuracy_forget")]
    assert [float(row["value"]) for row in back] == [0.1]
    assert "### Requests in turn: scrub · 2 requests in turn" in sequences_markdown([told])
    assert sequences_markdown([]) == ""
    write_done(tmp_path, "key", lambda: None)
    print_sequence(tmp_path)
    shown = capsys.readouterr().out
    assert "accuracy %, after 1" in shown and "+10.0 (null -3.0 to +2.0)" in shown and "Cost: all steps 2.0 s" in shown
    assert [each["folder"] for each in read_sequences(tmp_path.parent)] == [tmp_path.name]
