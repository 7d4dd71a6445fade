"""The table of audits: one line a method, each audit once, and nothing of unfinished results."""

from __future__ import annotations

import json

import pytest
from support.results import comparison, record, save

from speechforget.report.audits import audits_markdown, audits_rows, read_audits


def audit(value: float) -> dict:
    def figure(model: str, at: float | None) -> dict:
        return {"name": "swap_auc_margin", "model": model, "value": at, "low": None if at is None else at - 0.01} | {
            "high": None if at is None else at + 0.01
        }

    figures = [figure("original", 0.6), figure("oracle", 0.5), figure("unlearned", value)]
    return {"pairs": 8, "oracles": 8, "pool": {"made_up": "The pool is small."}, "retain": 9, "figures": figures}


@pytest.fixture
def folder(tmp_path):
    for number, (method, value) in enumerate([("scrub", 0.51), ("scrub", 0.51), ("none", 0.6), ("ssd", None)]):
        path = tmp_path / "result" / str(number)
        save(path, record(method=method, seed=number), comparison())
        told = json.loads((path / "result.json").read_text()) | {"audit": audit(value)}
        (path / "result.json").write_text(json.dumps(told))
    save(tmp_path / "result" / "plain", record(), comparison())
    return tmp_path


def test_each_audit_has_one_line_below_original_and_oracle(folder) -> None:
    audits = read_audits(folder)
    lines = [line for line in audits_markdown(audits).splitlines() if line.startswith("|")][2:]
    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["Original", "Oracle", "none", "scrub", "ssd"]
    assert "0.510 (0.500 to 0.520)" in lines[3] and "–" in lines[4]
    assert "8 pairs and 8 oracles. The pool is small." in audits_markdown(audits)
    assert audits_markdown([]) == ""


def test_unfinished_results_have_no_line_and_the_csv_has_all_figures(folder) -> None:
    (folder / "result" / "2" / "DONE").unlink()
    audits = read_audits(folder)
    assert {one.method for one in audits} == {"scrub", "ssd"}
    rows = audits_rows(audits).splitlines()
    assert len(rows) == 1 + 2 * 3 and rows[0].startswith("about,method,name,model")
