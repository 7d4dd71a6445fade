"""Results as files, in the terminal, as a picture, and many of them as tables."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from speechforget.errors import UserError
from speechforget.evaluation.compare import compare
from speechforget.evaluation.tables import Scores, Tables
from speechforget.report.__main__ import main
from speechforget.report.collect import collect
from speechforget.report.console import attack_sentence, number, print_comparison, threshold_sentence
from speechforget.report.layout import COLUMNS, comma_separated, latex, markdown
from speechforget.report.plot import comparison_plot
from speechforget.report.result import attack_verdict, oracle_verdict, write_result
from speechforget.report.summary import summarize

SAMPLE = {"kind": "sample", "by": "random", "percent": 5, "seed": 0}
CLASS = {"kind": "class", "classes": None, "number": 1, "seed": 0}


def entry(value, low=None, high=None, count=100, gap=0.0):
    return {"value": value, "low": low, "high": high, "count": count, "gap": gap, "oracle_spread": None}


def comparison(unlearned=0.8, oracle=0.9, auc=(0.5, 0.4, 0.6, 50), seconds=4.0):
    """What `compare` returns, with numbers that a test can check by hand."""

    def model(value, area, took):
        accuracies = {
            f"accuracy_{name}": entry(value, value - 0.05, min(value + 0.05, 1), 100, value - oracle) for name in ("forget", "retain", "test")
        }
        accuracies["accuracy_test_forgotten"] = entry(None, count=0, gap=None)
        accuracies["accuracy_validation"] = entry(value, gap=value - oracle)
        gap = None if area[0] is None or auc[0] is None else area[0] - auc[0]
        attack = {"membership_nonmember_share": entry(0.4, 0.3, 0.5), "membership_auc": entry(*area, gap)}
        return {**accuracies, **attack, "seconds": entry(took, count=1)}

    return {"original": model(1.0, (0.9, 0.8, 1.0, 50), 20.0), "oracle": model(oracle, auc, 16.0), "unlearned": model(unlearned, auc, seconds)}


def record(method="scrub", seed=0, task=None, **changes):
    task = dict(task or SAMPLE)
    name = f"{task['kind']}-{task.get('percent', 'yes')}-seed{task['seed']}"
    key = f"{seed}-{name}"
    base = {
        "task": task,
        "dataset": "espeak",
        "label": "word",
        "model": "tcresnet",
        "method": method,
        "seed": seed,
        "request": {"name": name, "forget": 50, "retain": 500, "nonmembers": 50, "forgotten": []},
        "holdout": True,
        "artefacts": {"original": f"original-{seed}", "oracle": f"oracle-{key}", "unlearned": f"{method}-{key}"},
        "versions": {"torch": "2.13"},
        "commit": "abc",
    }
    return {**base, **changes}


def save(folder, about, numbers):
    result = write_result(folder, about, numbers)
    (folder / "DONE").touch()
    return result


def printed(result, **options):
    out = io.StringIO()
    print_comparison(result, console=Console(file=out, width=112, **options))
    return out.getvalue()


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
    assert "0.500" in text and "50 non-members" in text and "0.5 lies inside" in text
    assert "oracle *" not in text
    assert max(map(len, text.splitlines())) <= 112


def test_console_has_colours_in_a_terminal_only(tmp_path):
    assert "\x1b" in printed(save(tmp_path, record(), comparison()), force_terminal=True)


@pytest.mark.parametrize(
    ("auc", "holdout", "verdict", "words"),
    [
        ((0.5, 0.4, 0.6, 50), True, "inside", "0.5 lies inside"),
        ((0.7, 0.6, 0.8, 50), True, "outside", "0.5 lies outside"),
        ((0.3, 0.2, 0.4, 50), True, "outside", "0.5 lies outside"),
        ((0.7, 0.6, 0.8, 29), True, "too few", "too few to tell"),
        ((0.7, 0.6, 0.8, 30), True, "outside", "0.5 lies outside"),
        ((None, None, None, 0), True, "no matching holdout", "no holdout utterance matches"),
        ((None, None, None, 0), False, "no holdout", "no holdout"),
    ],
)
def test_the_oracles_attack_is_judged(tmp_path, auc, holdout, verdict, words):
    result = save(tmp_path, record(holdout=holdout), comparison(auc=auc))
    assert attack_verdict(result["comparison"]["oracle"]["membership_auc"], holdout) == verdict
    assert words in attack_sentence(result)
    text = printed(result)
    assert ("oracle *" in text) == (verdict == "outside")
    assert words in " ".join(text.split())
    assert comparison_plot(result, None, tmp_path / "picture.png").stat().st_size > 10_000


def test_the_share_judged_non_member_stands_beside_how_often_that_attack_is_right(tmp_path):
    numbers = comparison()
    for model, found in (("original", (0.6, 0.55, 0.65)), ("oracle", (0.5, 0.45, 0.55)), ("unlearned", (0.7, 0.65, 0.75))):
        numbers[model]["membership_attack_accuracy"] = entry(*found)
    assert " –" not in threshold_sentence(save(tmp_path / "shown", record(), numbers))
    numbers["oracle"]["membership_nonmember_share"] = {**entry(None, count=0, gap=None), "reason": "the attack is no better than guessing"}
    text = " ".join(printed(save(tmp_path / "run", record(), numbers)).split())
    assert "right about held-out recordings" in text and "original 60.0 % (55.0 to 65.0), oracle 50.0 % (45.0 to 55.0), unlearned 70.0 %" in text
    assert "–: no better than guessing" in text
    save(tmp_path / "other", record(seed=1), comparison())
    (table,) = summarize(collect(tmp_path / "run"))
    assert "| – | 50.0 |" in markdown([table])
    (table,) = summarize(collect(tmp_path))
    assert "40.0 (n 1)" in markdown([table]).replace("40.0 ± 0.0", "40.0")


def without_oracle():
    """What `compare` returns where there is none."""
    numbers = comparison()
    nothing = entry(None, count=0, gap=None)
    numbers["oracle"] = dict.fromkeys(numbers["oracle"], nothing)
    return {model: {name: {**one, "gap": None} for name, one in entries.items()} for model, entries in numbers.items()}


@pytest.mark.parametrize(("holdout", "words"), [(True, "no oracle, so the attack cannot be checked"), (False, "no holdout (dataset.holdout is 0)")])
def test_without_an_oracle_everything_says_so(tmp_path, holdout, words):
    about = record(holdout=holdout, no_oracle="No oracle: it was too dear [/dim].", notes=["Something else."])
    result = save(tmp_path, about, without_oracle())
    assert result["objective"] is None
    assert oracle_verdict(result) == ("no oracle" if holdout else "no holdout")
    assert words in attack_sentence(result) and "Oracle's" not in attack_sentence(result)
    text = printed(result)
    assert re.search(r"^ *oracle( +none){7}", text, re.MULTILINE) and "No oracle: it was too dear [/dim]." in text and "Something else." in text
    assert not re.search(r"\d [+-]\d", text) and "gap to the oracle" not in text and "x" not in text.split("unlearned")[1].splitlines()[0]
    picture = comparison_plot(result, None, tmp_path / "picture.png").read_bytes()
    assert b"too dear" in picture and len(picture) > 10_000


def test_notes_of_a_result_are_notes_of_its_table_once(tmp_path):
    for seed in (0, 1):
        save(tmp_path / str(seed), record(seed=seed, notes=["Mind this.", f"Mind seed {seed}."]), comparison())
    (table,) = summarize(collect(tmp_path))
    assert [note for note in table.notes if note.startswith("Mind")] == ["Mind this.", "Mind seed 0.", "Mind seed 1."]
    for text in (markdown([table]), latex([table]), comma_separated([table]).splitlines()[1]):
        assert text.count("Mind this.") == 1


def test_numbers_have_no_negative_zero():
    assert number(-0.0001, 100, 1, sign=True) == "0.0" and number(0.0012, 100, 1, sign=True) == "+0.1"
    assert number(None, 100, 1) == "–" and number(-0.31, 100, 1, sign=True) == "-31.0"


def test_picture_of_real_tables_even_of_a_ruined_model(tmp_path):
    draw = np.random.default_rng(0)
    role, label = draw.choice(["forget", "retain", "holdout", "test", "validation"], 300), draw.integers(0, 4, 300)

    def scores(logits):
        loss = -np.log(np.exp(logits)[np.arange(300), label] / np.exp(logits).sum(1))
        return Scores(role, role == "holdout", label, logits, loss, logits, 1.0)

    ruined = scores(np.full((300, 4), np.nan))
    tables = Tables(scores(draw.normal(size=(300, 4)) + 6 * np.eye(4)[label]), (scores(draw.normal(size=(300, 4))),), ruined, (), 0)
    metrics = ["speechforget.evaluation.accuracy.accuracy", "speechforget.evaluation.membership.auc", "speechforget.evaluation.cost.seconds"]
    result = {**record(), "comparison": compare(tables, metrics)}
    path = comparison_plot(result, "A title", tmp_path / "deep" / "picture.png", tables)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 30_000
    assert [item.name for item in path.parent.iterdir()] == ["picture.png"]


def test_means_and_deviations_are_exact_and_shared_models_count_once(tmp_path):
    values = {"scrub": (0.7, 0.8, 0.85), "salun": (0.6, 0.65, 0.9)}
    oracles = (0.90, 0.92, 0.97)
    for method, numbers in values.items():
        for seed, value in enumerate(numbers):
            save(tmp_path / f"{method}{seed}", record(method, seed), comparison(value, oracles[seed]))
    (table,) = summarize(collect(tmp_path))
    (block,) = table.blocks
    assert [row.name for row in block.rows] == ["original", "oracle", "salun", "scrub"]
    assert [row.runs for row in block.rows] == [3, 3, 3, 3]
    rows = {row.name: row.metrics["accuracy_test"] for row in block.rows}
    for name, numbers in {"oracle": oracles, **values}.items():
        assert rows[name].mean == pytest.approx(np.mean(numbers), abs=1e-15)
        assert rows[name].std == pytest.approx(np.std(numbers, ddof=1), abs=1e-15)
        gaps = np.subtract(numbers, oracles)
        assert rows[name].gap_mean == pytest.approx(gaps.mean(), abs=1e-15) and rows[name].gap_std == pytest.approx(gaps.std(ddof=1), abs=1e-15)
    lines = list(csv.DictReader(io.StringIO(comma_separated([table]))))
    (line,) = [line for line in lines if line["row"] == "scrub" and line["metric"] == "accuracy_test"]
    assert float(line["mean"]) == rows["scrub"].mean and float(line["std"]) == rows["scrub"].std and line["n"] == "3"


def test_layout_is_that_of_the_paper(tmp_path):
    """Tables by dataset, label and model; blocks sample, class; rows Original, Oracle, methods; columns test, forget, retain, attack, time."""
    for label in ("speaker", "word"):
        for task in (CLASS, SAMPLE, {**SAMPLE, "percent": 10}):
            for method in ("scrub", "none"):
                about = record(method, task=task, label=label)
                save(tmp_path / f"{label}{task['kind']}{task.get('percent')}{method}", about, comparison())
    tables = summarize(collect(tmp_path))
    assert [table.label for table in tables] == ["speaker", "word"]
    titles = [block.title for block in tables[0].blocks]
    assert titles[0].startswith("sample unlearning (percent=10)") and titles[1].startswith("sample unlearning (percent=5)")
    assert titles[2].startswith("class unlearning:")
    text = markdown(tables)
    first = text.split("\n\n")[1].splitlines()
    names = [line.split("|")[1].strip().strip("*") for line in first[2:]]
    assert names[1:5] == ["Original", "Oracle", "none", "scrub"]
    assert [column[0] for column in COLUMNS if "forgotten" not in column[0]] == [
        *(
            "accuracy_test",
            "accuracy_forget",
            "accuracy_retain",
            "membership_nonmember_share",
            "membership_attack_accuracy",
            "membership_auc",
            "seconds",
        )
    ]
    assert len({line.count("|") for line in first}) == 1
    assert "80.0 |" in text and "±" not in text.split("Mean ±")[0]


def test_latex_is_balanced_and_escaped(tmp_path):
    save(tmp_path / "a", record("random_label"), comparison())
    save(tmp_path / "b", record("random_label", seed=1), comparison(0.9))
    text = latex(summarize(collect(tmp_path)), gap=True)
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    assert "random\\_label" in text and "85.0 $\\pm$ 7.1" in text and "\\toprule" in text and "-5.0 $\\pm$ 7.1" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert len({line.count("&") for line in rows}) == 1


def test_settings_tell_rows_and_tables_apart(tmp_path):
    for rate in (0.1, 0.2):
        settings = {"method": {"learning_rate": rate}, "train": {"epochs": 3}}
        keys = {"original": "o", "oracle": "r", "unlearned": f"u{rate}"}
        save(tmp_path / f"rate{rate}", record(settings=settings, artefacts=keys), comparison(rate))
    settings = {"method": {"learning_rate": 0.1}, "train": {"epochs": 9}}
    save(tmp_path / "long", record(settings=settings, artefacts={"original": "o2", "oracle": "r2", "unlearned": "u2"}), comparison())
    tables = summarize(collect(tmp_path))
    assert [table.setting for table in tables] == ["epochs=3", "epochs=9"]
    assert [row.name for row in tables[0].blocks[0].rows] == ["original", "oracle", "scrub (learning_rate=0.1)", "scrub (learning_rate=0.2)"]


def test_footnotes_tell_what_a_reader_must_know(tmp_path):
    save(tmp_path / "a", record(), comparison(auc=(0.8, 0.7, 0.9, 60)))
    save(tmp_path / "b", record(seed=1, commit="def"), comparison(auc=(0.5, 0.1, 0.9, 12)))
    again = record(artefacts={"original": "original-0", "oracle": "oracle-0-sample-5-seed0", "unlearned": "another"})
    save(tmp_path / "c", again, comparison())
    (table,) = summarize(collect(tmp_path))
    notes = " ".join(table.notes)
    assert "In 1 of 2 oracles 0.5 lies outside" in notes and "too few to tell" in notes
    assert "2 different states of the code" in notes and "Runs of scrub share seed and request" in notes
    text = markdown([table])
    assert "Oracle \\*" in text and "Original \\*" not in text


def test_without_holdout_is_a_table_of_its_own_and_says_so(tmp_path):
    nothing = (None, None, None, 0)
    numbers = comparison(auc=nothing)
    for metrics in numbers.values():
        metrics |= {"membership_auc": entry(*nothing, None), "membership_nonmember_share": entry(*nothing, None)}
    save(tmp_path / "without", record(holdout=False), numbers)
    save(tmp_path / "with", record(), comparison())
    without, with_holdout = summarize(collect(tmp_path))
    assert not without.holdout and with_holdout.holdout
    assert markdown([without]).count("no holdout |") == 9 and "no holdout" not in markdown([with_holdout])


def test_unfinished_and_broken_results_are_left_out_and_named(tmp_path, caplog):
    save(tmp_path / "good", record(), comparison())
    write_result(tmp_path / "unfinished", record(), comparison())
    for name, text in {"cut": '{"task": {', "other": '{"a": 1}', "list": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
        (tmp_path / name / "DONE").touch()
    frame = collect(tmp_path)
    assert frame["folder"].unique().tolist() == [str(tmp_path / "good")]
    for name in ("cut", "other", "list"):
        assert str(tmp_path / name) in caplog.text
    assert "1 unfinished run" in caplog.text


def test_command_prints_writes_and_fails_in_one_sentence(tmp_path, capsys):
    save(tmp_path / "run", record(), comparison())
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Oracle" in shown and "\x1b" not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.md", "report.tex", "run"]
    assert main([str(tmp_path), "--format", "latex", "--gap"]) == 0
    assert capsys.readouterr().out.startswith("% needs")
    for folder in (tmp_path / "nowhere", tmp_path / "run" / "empty"):
        (tmp_path / "run" / "empty").mkdir(exist_ok=True)
        assert main([str(folder)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="no folder"):
        collect(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as help_exit:
        main(["--help"])
    assert help_exit.value.code == 0 and "examples:" in capsys.readouterr().out


def test_statistics_of_a_single_run_have_no_deviation(tmp_path):
    save(tmp_path / "run", record(), comparison())
    row = summarize(collect(tmp_path))[0].blocks[0].rows[-1]
    assert math.isnan(row.metrics["accuracy_test"].std) and row.metrics["accuracy_test"].n == 1
    assert row.metrics["accuracy_test_forgotten"].n == 0


def test_nothing_here_imports_torch_and_the_console_nothing_heavy():
    heavy = "import sys; found = {'torch', 'lightning', %s} & set(sys.modules); sys.exit(str(found) if found else 0)"
    report = "import speechforget.report.summary, speechforget.report.collect, speechforget.report.layout, speechforget.report.plot;"
    light = "import speechforget.report.console, speechforget.report.result, speechforget.evaluation.compare;"
    light += "import speechforget.evaluation.agreement, speechforget.evaluation.divergence;"
    for code in (report + heavy % "'x'", light + heavy % "'matplotlib', 'sklearn', 'scipy', 'pandas'"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
