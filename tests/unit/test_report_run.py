"""One run's result: its files, the table in the terminal, the picture, and the sentences beside the numbers."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.text import Text
from support.results import comparison, entry, printed, record, save, without_oracle, words

from speechforget.cli.main import summarise
from speechforget.evaluation.compare import compare
from speechforget.evaluation.tables import Scores, Tables
from speechforget.report.columns import number
from speechforget.report.console import attack_sentence, distance_sentence, power_sentence, verdict_lines
from speechforget.report.plot import comparison_plot
from speechforget.report.record import attack_verdict, oracle_verdict
from speechforget.store import write_json


def test_result_files_hold_the_record_and_one_row_per_model_and_metric(tmp_path):
    result = save(tmp_path / "run", record(seed=np.int64(3)), comparison())
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert result["seed"] == 3 and result["objective"] == pytest.approx(0.1)
    rows = pd.read_csv(tmp_path / "run" / "result.csv")
    assert list(rows.columns) == ["model", "metric", "value", "low", "high", "count", "gap"]
    assert len(rows) == 3 * len(comparison()["oracle"])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["DONE", "result.csv", "result.json"]


def test_console_shows_values_gaps_speedup_and_no_escapes(tmp_path):
    text = printed(save(tmp_path, record(), comparison()))
    assert "\x1b" not in text
    for model in ("original", "oracle", "unlearned"):
        assert re.search(rf"^ *{model}", text, re.MULTILINE)
    assert "100.0 +10.0" in text and "80.0 -10.0" in text and "4.0x" in text and "0.900 +0.400" in text
    assert "0.500" in text and "50 non-members" in text and "0.5 is inside the interval" in text
    assert "oracle *" not in text
    assert max(map(len, text.splitlines())) <= 112


def test_console_has_colours_in_a_terminal_only(tmp_path):
    assert "\x1b" in printed(save(tmp_path, record(), comparison()), force_terminal=True)


@pytest.mark.parametrize(
    ("auc", "holdout", "verdict", "sentence", "drawn"),
    [
        ((0.5, 0.4, 0.6, 50), True, "inside", "0.5 is inside the interval", True),
        ((0.7, 0.6, 0.8, 50), True, "outside", "0.5 is outside the interval", True),
        ((0.3, 0.2, 0.4, 50), True, "outside", "0.5 is outside the interval", False),
        ((0.7, 0.6, 0.8, 29), True, "too few", "too few to judge the attack", True),
        ((0.7, 0.6, 0.8, 30), True, "outside", "0.5 is outside the interval", False),
        ((None, None, None, 0), True, "no matching holdout", "no holdout utterance matches", False),
        ((None, None, None, 0), False, "no holdout", "no holdout", True),
    ],
)
def test_the_oracles_attack_is_judged(tmp_path, auc, holdout, verdict, sentence, drawn):
    """A picture is drawn once for each way that it shows a verdict."""
    result = save(tmp_path, record(holdout=holdout), comparison(auc=auc))
    assert attack_verdict(result["comparison"]["oracle"]["membership_auc"], holdout) == verdict
    assert sentence in attack_sentence(result)
    text = printed(result)
    assert ("oracle *" in text) == (verdict == "outside")
    assert sentence in words(text)
    if drawn:
        assert comparison_plot(result, None, tmp_path / "picture.png").stat().st_size > 10_000


def test_single_numbers_say_what_they_lack(tmp_path):
    numbers = comparison()
    tow = {**entry(None, count=3), "reason": "there is no value of accuracy_test"}
    numbers["unlearned"] |= {"average_gap": entry(0.1, count=3), "tow": tow}
    assert distance_sentence(save(tmp_path, record(), numbers)) == (
        "Unlearned against the oracle: average gap 10.0 points (accuracies only, without the attack), "
        "ToW undefined (there is no value of accuracy_test)."
    )


@pytest.mark.parametrize("holdout", [True, False])
def test_an_attack_that_is_not_measured_is_not_mentioned(tmp_path, holdout):
    """A missing metric says nothing of the holdout."""
    numbers = comparison()
    for entries in numbers.values():
        del entries["membership_auc"]
    result = save(tmp_path, record(holdout=holdout), numbers)
    assert oracle_verdict(result) == "not measured" and attack_sentence(result) == ""
    assert "attack:" not in printed(result)
    if holdout:
        assert comparison_plot(result, None, tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("holdout", "sentence"),
    [(True, "no oracle, so the attack cannot be checked"), (False, "no holdout (dataset.holdout is 0)")],
)
def test_without_an_oracle_everything_says_so(tmp_path, holdout, sentence):
    about = record(holdout=holdout, no_oracle="No oracle: it was too dear [/dim].", notes=["Something else."])
    result = save(tmp_path, about, without_oracle())
    assert result["objective"] is None
    assert oracle_verdict(result) == ("no oracle" if holdout else "no holdout")
    assert sentence in attack_sentence(result) and "Oracle's" not in attack_sentence(result)
    text = printed(result)
    assert re.search(r"^ *oracle( +none){7}", text, re.MULTILINE)
    assert "No oracle: it was too dear [/dim]." in text and "Something else." in text
    assert not re.search(r"\d [+-]\d", text) and "gap to the oracle" not in text
    assert "x" not in text.split("unlearned")[1].splitlines()[0]
    if holdout:
        picture = comparison_plot(result, None, tmp_path / "picture.png").read_bytes()
        assert b"too dear" in picture and len(picture) > 10_000


def test_numbers_have_no_negative_zero():
    assert number(-0.0001, 100, 1, sign=True) == "0.0" and number(0.0012, 100, 1, sign=True) == "+0.1"
    assert number(None, 100, 1) == "–" and number(-0.31, 100, 1, sign=True) == "-31.0"


def test_picture_of_real_tables_even_of_a_ruined_model(tmp_path):
    draw = np.random.default_rng(0)
    role, label = draw.choice(["forget", "retain", "holdout", "test", "validation"], 300), draw.integers(0, 4, 300)

    def scores(logits):
        loss = -np.log(np.exp(logits)[np.arange(300), label] / np.exp(logits).sum(1))
        return Scores(role, role == "holdout", label, logits, loss, logits, 1.0)

    original, oracle = scores(draw.normal(size=(300, 4)) + 6 * np.eye(4)[label]), scores(draw.normal(size=(300, 4)))
    tables = Tables(original, (oracle,), scores(np.zeros((300, 4))), (), 0)
    metrics = [f"speechforget.evaluation.{path}" for path in ("accuracy.accuracy", "membership.auc", "timing.seconds")]
    result = {**record(), "comparison": compare(tables, metrics)}
    path = comparison_plot(result, "A title", tmp_path / "deep" / "picture.png", tables)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 30_000
    assert [item.name for item in path.parent.iterdir()] == ["picture.png"]


def test_a_result_without_intervals_is_drawn_and_printed(tmp_path):
    """One speaker gives error rates, and no interval over speakers."""
    numbers = {
        model: {
            f"word_error_rate_{name.removeprefix('accuracy_')}": {**one, "low": None, "high": None}
            for name, one in entries.items()
            if name.startswith("accuracy_") and one["value"] is not None
        }
        for model, entries in comparison().items()
    }
    result = {**record(), "comparison": numbers}
    assert comparison_plot(result, None, tmp_path / "picture.png").stat().st_size > 10_000
    assert "80.0" in printed(result) and "None" not in printed(result)


def test_nothing_here_imports_torch_and_the_console_nothing_heavy():
    """The light modules come first, in one process."""
    code = """
import sys
import speechforget.report.console, speechforget.report.record, speechforget.evaluation.compare
import speechforget.evaluation.agreement, speechforget.evaluation.divergence
light = {"matplotlib", "sklearn", "scipy", "pandas", "torch", "lightning"} & set(sys.modules)
import speechforget.report.summary, speechforget.report.collect, speechforget.report.layout, speechforget.report.plot
sys.exit(str(light | {"torch", "lightning"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()", done.stderr


def test_a_sweep_lists_the_flags_of_its_jobs(tmp_path, capsys):
    outcomes = [(math.inf, ["destroys the model"]), (0.2, []), (None, ["does nothing"])]
    for index, (objective, flags) in enumerate(outcomes):
        outcome = {"overrides": [f"seed={index}"], "outcome": "done", "objective": objective, "reason": ""}
        write_json(tmp_path / f"{index}.json", {**outcome, "flags": flags})
    assert summarise(tmp_path) == 0
    lines = [line.split("seed=")[1] for line in capsys.readouterr().out.splitlines() if "seed=" in line]
    assert lines == ["0  objective inf  destroys the model", "1  objective 0.2000", "2  does nothing"]


def test_an_audit_names_the_numbers_that_separate() -> None:
    judged = {f"metric{number}": {"weak": number % 2 == 0} for number in range(20)}
    said = power_sentence({"power": judged})
    assert said.startswith("10 of 20 numbers separate") and "metric1, metric3" in said and "metric2," not in said
    assert "and 2 more" in said
    assert power_sentence({"power": {"one": {"weak": True}}}).startswith("0 of 1 numbers separate")
    assert power_sentence({}) == ""


def test_a_verdict_is_said_in_one_line_a_question() -> None:
    answers = [
        {"question": "Is it in?", "word": "under", "sentence": "There is evidence [of it]."},
        {"question": "Is it out?", "word": "too little to tell", "sentence": "Too little to tell, alas. A hint, 0.5."},
    ]
    first, second = verdict_lines({"verdict": answers})
    assert Text.from_markup(first).plain == "Is it in? Under: There is evidence [of it]."
    assert Text.from_markup(second).plain == "Is it out? Too little to tell, alas."
    assert verdict_lines({}) == []
