"""Results as files, in the terminal, as a picture, and many of them as tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from speechforget.cli.sweep import summarise
from speechforget.errors import UserError
from speechforget.evaluation.compare import compare
from speechforget.evaluation.tables import Scores, Tables
from speechforget.report.__main__ import main
from speechforget.report.collect import collect
from speechforget.report.console import attack_sentence, distance_sentence, number, print_comparison, threshold_sentence
from speechforget.report.layout import COLUMNS, cells, comma_separated, latex, markdown, print_tables
from speechforget.report.plot import comparison_plot
from speechforget.report.record import attack_verdict, oracle_verdict, read_objective, write_result
from speechforget.report.summary import summarize
from speechforget.store import write_json

SHARE = "membership_nonmember_share"
SAMPLE = {"kind": "sample", "by": "random", "percent": 5, "seed": 0}
CLASS = {"kind": "class", "classes": None, "number": 1, "seed": 0}


def entry(value, low=None, high=None, count=100, gap=0.0):
    return {"value": value, "low": low, "high": high, "count": count, "gap": gap, "oracle_spread": None}


def comparison(unlearned=0.8, oracle=0.9, auc=(0.5, 0.4, 0.6, 50), seconds=4.0):
    """What `compare` returns, with numbers that a test can check by hand."""

    def model(value, area, took):
        accuracies = {
            f"accuracy_{name}": entry(value, value - 0.05, min(value + 0.05, 1), 100, value - oracle)
            for name in ("forget", "retain", "test")
        }
        accuracies["accuracy_test_forgotten"] = entry(None, count=0, gap=None)
        accuracies["accuracy_validation"] = entry(value, gap=value - oracle)
        gap = None if area[0] is None or auc[0] is None else area[0] - auc[0]
        attack = {"membership_nonmember_share": entry(0.4, 0.3, 0.5), "membership_auc": entry(*area, gap)}
        return {**accuracies, **attack, "seconds": entry(took, count=1)}

    return {
        "original": model(1.0, (0.9, 0.8, 1.0, 50), 20.0),
        "oracle": model(oracle, auc, 16.0),
        "unlearned": model(unlearned, auc, seconds),
    }


MACHINE = {"device": "cpu", "host": "EPYC, 8 cores", "threads": 1, "ranks": 1}


def cost(seconds=1.0, forward=100, forward_backward=300, **machine):
    return {
        "seconds": seconds,
        "forward": forward,
        "forward_backward": forward_backward,
        "machine": {**MACHINE, **machine},
    }


def identified(task, method, seed, split_seed=0, **facts):
    """What `Pipeline.identity` gives: `facts` are of the table (original and oracle), `unlearned`, `request` or `metrics`."""
    table = {"model.train.epochs": 3, **facts.get("table", {})}
    unlearned = {"model.method.learning_rate": 0.1, **facts.get("unlearned", {})}
    request = {
        **{name: value for name, value in task.items() if name != "seed" and value is not None},
        **facts.get("request", {}),
    }
    return {
        "original": {"digest": digest(table), "facts": table},
        "oracle": {"digest": digest([table]), "facts": table},
        "unlearned": {"digest": digest([table, unlearned, method]), "facts": unlearned},
        "request": request,
        "metrics": {"version": 2, "accuracy": "a" * 64, **facts.get("metrics", {})},
        "utterances": [digest([request, task["seed"]]), "nonmembers"],
        "seeds": {"seed": int(seed), "task.seed": task["seed"], "dataset.split_seed": split_seed},
    }


def digest(thing):
    return hashlib.sha256(json.dumps(thing, sort_keys=True, default=str).encode()).hexdigest()[:16]


def record(method="scrub", seed=0, task=None, facts=None, **changes):
    """A result's record whose artefacts are named by all that makes them."""
    task = dict(task or SAMPLE)
    name = f"{task['kind']}-{task.get('percent', 'yes')}-seed{task['seed']}"
    identity = identified(task, method, seed, **(facts or {}))
    made = [seed, identity["seeds"]["dataset.split_seed"], identity["original"]["digest"]]
    keys = {
        "original": made,
        "oracle": [made, identity["request"], task["seed"]],
        "unlearned": [made, identity["unlearned"]["digest"], identity["request"], task["seed"]],
    }
    base = {
        "task": task,
        "dataset": "espeak",
        "label": "word",
        "model": "tcresnet",
        "method": method,
        "seed": seed,
        "request": {"name": name, "forget": 50, "retain": 500, "nonmembers": 50, "forgotten": []},
        "holdout": True,
        "artefacts": {name: f"{name}-{digest(key)}" for name, key in keys.items()},
        "identity": identity,
        "cost": {"original": cost(20.0), "oracle": cost(16.0), "unlearned": cost(4.0, 10, 30)},
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
    for model, found in (
        ("original", (0.6, 0.55, 0.65)),
        ("oracle", (0.5, 0.45, 0.55)),
        ("unlearned", (0.7, 0.65, 0.75)),
    ):
        numbers[model]["membership_attack_accuracy"] = entry(*found)
    assert " –" not in threshold_sentence(save(tmp_path / "shown", record(), numbers))
    numbers["oracle"]["membership_nonmember_share"] = {
        **entry(None, count=0, gap=None),
        "reason": "the attack is no better than guessing",
    }
    text = " ".join(printed(save(tmp_path / "run", record(), numbers)).split())
    assert (
        "right about held-out recordings" in text
        and "original 60.0 % (55.0 to 65.0), oracle 50.0 % (45.0 to 55.0), unlearned 70.0 %" in text
    )
    assert "–: no better than guessing" in text
    numbers["unlearned"]["membership_nonmember_share"]["gap"] = None
    save(tmp_path / "run", record(), numbers)
    save(tmp_path / "other", record(seed=1), comparison())
    (table,) = summarize(collect(tmp_path / "run"))
    assert "| – | 50.0 |" in markdown([table]) and any("no better than guessing" in note for note in table.notes)
    assert not any("guessing" in note for note in summarize(collect(tmp_path / "other"))[0].notes)
    tables = summarize(collect(tmp_path))
    lines = {
        line.split("|")[1].strip(): line for line in markdown(tables, gap=True).splitlines() if line.startswith("|")
    }
    assert "| 40.0 (n 1) |" in lines["Oracle"] and "| 40.0 ± 0.0 | 0.0 (n 1) |" in lines["scrub"]
    (told,) = [
        line
        for line in csv.DictReader(io.StringIO(comma_separated(tables)))
        if (line["row"], line["metric"]) == ("scrub", SHARE)
    ]
    assert (told["n"], told["gap_n"]) == ("2", "1")


def test_single_numbers_say_what_they_lack(tmp_path):
    numbers = comparison()
    numbers["unlearned"] |= {
        "average_gap": entry(0.1, count=3),
        "tow": {**entry(None, count=3), "reason": "there is no accuracy_test"},
    }
    said = distance_sentence(save(tmp_path, record(), numbers))
    assert said == (
        "Unlearned against the oracle: average gap 10.0 points (accuracies only, without the attack), ToW undefined (there is no accuracy_test)."
    )


@pytest.mark.parametrize("holdout", [True, False])
def test_an_attack_that_was_not_asked_for_is_not_spoken_of(tmp_path, holdout):
    """The run's own list of metrics lacks it: that says nothing of the holdout."""
    numbers = {
        model: {name: value for name, value in entries.items() if name != "membership_auc"}
        for model, entries in comparison().items()
    }
    result = save(tmp_path, record(holdout=holdout), numbers)
    assert oracle_verdict(result) == "not measured" and attack_sentence(result) == ""
    assert "attack:" not in printed(result)
    assert comparison_plot(result, None, tmp_path / "picture.png").stat().st_size > 10_000


def without_oracle():
    """What `compare` returns where there is none."""
    numbers = comparison()
    nothing = entry(None, count=0, gap=None)
    numbers["oracle"] = dict.fromkeys(numbers["oracle"], nothing)
    return {model: {name: {**one, "gap": None} for name, one in entries.items()} for model, entries in numbers.items()}


@pytest.mark.parametrize(
    ("holdout", "words"),
    [(True, "no oracle, so the attack cannot be checked"), (False, "no holdout (dataset.holdout is 0)")],
)
def test_without_an_oracle_everything_says_so(tmp_path, holdout, words):
    about = record(holdout=holdout, no_oracle="No oracle: it was too dear [/dim].", notes=["Something else."])
    result = save(tmp_path, about, without_oracle())
    assert result["objective"] is None
    assert oracle_verdict(result) == ("no oracle" if holdout else "no holdout")
    assert words in attack_sentence(result) and "Oracle's" not in attack_sentence(result)
    text = printed(result)
    assert (
        re.search(r"^ *oracle( +none){7}", text, re.MULTILINE)
        and "No oracle: it was too dear [/dim]." in text
        and "Something else." in text
    )
    assert (
        not re.search(r"\d [+-]\d", text)
        and "gap to the oracle" not in text
        and "x" not in text.split("unlearned")[1].splitlines()[0]
    )
    picture = comparison_plot(result, None, tmp_path / "picture.png").read_bytes()
    assert b"too dear" in picture and len(picture) > 10_000


def test_notes_of_a_result_are_notes_of_its_table_once(tmp_path):
    for seed in (0, 1):
        save(tmp_path / str(seed), record(seed=seed, notes=["Mind this.", f"Mind seed {seed}."]), comparison())
    (table,) = summarize(collect(tmp_path))
    assert [note for note in table.notes if note.startswith("Mind")] == ["Mind this.", "Mind seed 0.", "Mind seed 1."]
    for text in (markdown([table]), latex([table]), comma_separated([table]).splitlines()[1]):
        assert text.count("Mind this.") == 1


def test_methods_with_untried_requests_are_one_note_of_a_table(tmp_path):
    for method, share in (("scrub", 12), ("salun", 13), ("none", None)):
        sentence = share and f"The request is {share} % of the training recordings."
        result = save(tmp_path / method, record(method, untried=sentence), comparison())
        assert (str(sentence) in " ".join(printed(result).split())) == bool(sentence)
    (table,) = summarize(collect(tmp_path))
    (note,) = [note for note in table.notes if "tried" in note]
    assert (
        "salun, scrub." in note and "none" not in note and not any("The request is" in other for other in table.notes)
    )


def test_numbers_have_no_negative_zero():
    assert number(-0.0001, 100, 1, sign=True) == "0.0" and number(0.0012, 100, 1, sign=True) == "+0.1"
    assert number(None, 100, 1) == "–" and number(-0.31, 100, 1, sign=True) == "-31.0"


def test_picture_of_real_tables_even_of_a_ruined_model(tmp_path):
    draw = np.random.default_rng(0)
    role, label = draw.choice(["forget", "retain", "holdout", "test", "validation"], 300), draw.integers(0, 4, 300)

    def scores(logits):
        loss = -np.log(np.exp(logits)[np.arange(300), label] / np.exp(logits).sum(1))
        return Scores(role, role == "holdout", label, logits, loss, logits, 1.0)

    ruined = scores(np.zeros((300, 4)))
    tables = Tables(
        scores(draw.normal(size=(300, 4)) + 6 * np.eye(4)[label]), (scores(draw.normal(size=(300, 4))),), ruined, (), 0
    )
    metrics = [
        "speechforget.evaluation.accuracy.accuracy",
        "speechforget.evaluation.membership.auc",
        "speechforget.evaluation.timing.seconds",
    ]
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
        assert rows[name].gap_mean == pytest.approx(gaps.mean(), abs=1e-15) and rows[name].gap_std == pytest.approx(
            gaps.std(ddof=1), abs=1e-15
        )
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
    assert titles[0].startswith("sample unlearning (percent=10)") and titles[1].startswith(
        "sample unlearning (percent=5)"
    )
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


def test_latex_fits_the_page_is_balanced_and_escaped(tmp_path):
    task = {**CLASS, "classes": ["a" * 60, "b" * 60]}
    save(tmp_path / "a", record("random_label", task=task), comparison())
    save(tmp_path / "b", record("random_label", seed=1, task=task), comparison(0.9))
    tables = summarize(collect(tmp_path))
    tables[0].blocks[0].title = "class unlearning: " + ", ".join(task["classes"])
    tables[0].blocks[0].rows[-1].flags = {"x" * 30: 2}  # its bracket opens a line
    for gap in (False, True):
        text = latex(tables, gap)
        assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
        assert (
            "random\\_label" in text
            and "85.0 $\\pm$ 7.1" in text
            and "\\toprule" in text
            and ("-5.0 $\\pm$ 7.1" in text) == gap
        )
        assert "booktabs,graphicx" in text and "a" * 60 + ", b" not in text
        assert f"random\\_label \\\\ {{}}[{'x' * 30}]" in text and not re.search(r"\\\\ *[\[*]", text)
        pieces = text.split("\\begin{table}")[1:]
        assert len(pieces) == (2 if gap else 1) and sum(
            "\\ifdim\\width>\\linewidth" in piece for piece in pieces
        ) == len(pieces)
        for piece in pieces:
            rows = [line for line in piece.splitlines() if "&" in line]
            (count,) = {line.count("&") for line in rows}
            assert count <= 9 and f"{{l{'r' * count}}}" in piece and f"\\multicolumn{{{count + 1}}}" in piece
            for heading in rows[0].split("&"):
                assert max(map(len, heading.replace("\\shortstack[r]", "").split("\\\\"))) < 20, heading
        if shutil.which("pdflatex"):
            place = tmp_path / f"page-{gap}"
            place.mkdir()
            (place / "page.tex").write_text(
                "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}" + text + "\\end{document}"
            )
            done = subprocess.run(
                ["pdflatex", "-interaction=nonstopmode", "page.tex"],
                cwd=place,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0 and "Overfull \\hbox" not in done.stdout


def only(tables, block=0):
    """The rows of a block of the only table, without original and oracle."""
    (table,) = tables
    rows = [row for row in table.blocks[block].rows if row.artefact == "unlearned"]
    return [row.name for row in rows], [row.runs for row in rows]


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        (
            [{"unlearned": {"model.method.optimizer.name": name}} for name in ("sgd", "adamw")],
            ["optimizer.name=adamw", "optimizer.name=sgd"],
        ),
        (
            [{"unlearned": {"model.method.learning_rate": rate}} for rate in (0.1, 0.2)],
            ["learning_rate=0.1", "learning_rate=0.2"],
        ),
        ([{"unlearned": {"model.code": ["f" * 64, code * 64]}} for code in "ab"], ["code ", "code "]),
        ([{"metrics": {"accuracy": code * 64}} for code in "ab"], ["metrics code ", "metrics code "]),
    ],
)
def test_rows_whose_keys_differ_in_more_than_seeds_are_never_averaged(tmp_path, facts, shown):
    for seed, one in enumerate(facts):
        save(tmp_path / str(seed), record(seed=seed, facts=one), comparison())
    names, runs = only(summarize(collect(tmp_path)))
    assert runs == [1, 1] and len(set(names)) == 2
    assert all(name.startswith(f"scrub ({words}") for name, words in zip(names, shown, strict=True))


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("model.train.optimizer.name", ["sgd", "adamw"], "optimizer.name=adamw"),
        ("model.model.tune", ["whole", "lora"], "tune=lora"),
        ("model.checkpoint", ["a" * 64, "b" * 64], "checkpoint aaaaaa"),
        ("model.split.corpus.recordings", ["a" * 64, "b" * 64], "recordings aaaaaa"),
    ],
)
def test_originals_that_differ_in_more_than_seeds_are_tables_of_their_own(tmp_path, name, values, words):
    for seed, value in enumerate(values):
        save(tmp_path / str(seed), record(dataset="folder", seed=seed, facts={"table": {name: value}}), comparison())
    tables = summarize(collect(tmp_path))
    assert [row.runs for table in tables for row in table.blocks[0].rows] == [1] * 6
    assert words in [table.setting for table in tables] and len({table.title for table in tables}) == 2


def test_seeds_alone_make_a_mean_and_the_name_of_a_dataset_a_table(tmp_path):
    for seed, task_seed, split_seed in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        about = record(seed=seed, task={**SAMPLE, "seed": task_seed}, facts={"split_seed": split_seed})
        save(tmp_path / f"{seed}{task_seed}{split_seed}", about, comparison())
    save(tmp_path / "named", record(dataset="clinic"), comparison())
    named, other = summarize(collect(tmp_path))
    assert named.dataset == "clinic" and [row.runs for row in named.blocks[0].rows] == [1, 1, 1]
    assert [row.runs for row in other.blocks[0].rows] == [4, 4, 4] and [row.name for row in other.blocks[0].rows] == [
        "original",
        "oracle",
        "scrub",
    ]
    assert all("(" not in line for line in (named.title, other.title))


def test_runs_with_more_metrics_are_averaged_with_those_of_fewer_where_both_have_one(tmp_path):
    more = comparison()
    more["unlearned"]["kl_test"] = more["oracle"]["kl_test"] = more["original"]["kl_test"] = entry(0.5)
    save(tmp_path / "more", record(facts={"metrics": {"divergence": "b" * 64}}), more)
    save(tmp_path / "fewer", record(seed=1), comparison())
    (table,) = summarize(collect(tmp_path))
    assert [(row.runs, row.metrics["kl_test"].n, row.metrics["accuracy_test"].n) for row in table.blocks[0].rows] == [
        (2, 1, 2)
    ] * 3


def test_requests_that_differ_are_blocks_of_their_own(tmp_path):
    for code in "ab":
        task = {"kind": "sample", "by": "ids", "ids": "list.txt", "seed": 0}
        save(tmp_path / code, record(task=task, facts={"request": {"ids": code * 64}}), comparison())
    (table,) = summarize(collect(tmp_path))
    assert [block.title.split(":")[0] for block in table.blocks] == [
        "sample unlearning (ids aaaaaa)",
        "sample unlearning (ids bbbbbb)",
    ]


def test_runs_that_nothing_known_tells_apart_are_not_averaged(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name, record(artefacts={"original": "o", "oracle": "r", "unlearned": name}), comparison())
    names, runs = only(summarize(collect(tmp_path)))
    assert runs == [1, 1] and all(name.startswith("scrub (key ") for name in names) and names[0] != names[1]


def about(folder, day):
    (folder / "about.json").write_text(json.dumps({"time": f"2026-01-{day:02}T00:00:00+0000"}))


@pytest.mark.parametrize("recorded", [True, False])
def test_of_two_results_of_the_same_models_the_newest_is_shown_and_the_older_named(tmp_path, recorded):
    """They were compared by different code. Names sort against time."""
    for name, day, value, code in (("a", 2, 0.7, "a"), ("b", 3, 0.8, "b"), ("c", 1, 0.6, "c")):
        run = record(facts={"metrics": {"accuracy": code * 64}})
        if code != "b" and not recorded:
            del run["identity"]
        save(tmp_path / name, run, comparison(value))
        about(tmp_path / name, day)
    (table,) = summarize(collect(tmp_path))
    assert [row.metrics["accuracy_test"].mean for row in table.blocks[0].rows] == [1.0, 0.9, 0.8]
    (note,) = [note for note in table.notes if "newest" in note]
    assert "a (2026-01-02 00:00)" in note and "c (2026-01-01 00:00)" in note and "b (" not in note


def test_two_results_of_the_same_models_and_numbers_are_one_without_a_word(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, record(), comparison())
    tables = summarize(collect(tmp_path))
    assert only(tables) == (["scrub"], [1]) and "newest" not in " ".join(tables[0].notes)


def test_results_of_older_code_are_each_alone_and_say_so(tmp_path):
    for seed in (0, 1):
        run = record(seed=seed)
        del run["identity"], run["cost"]
        save(tmp_path / f"scrub-{seed}", run, comparison())
    save(tmp_path / "new", record(seed=2), comparison())
    tables = summarize(collect(tmp_path))
    assert [row.runs for table in tables for row in table.blocks[0].rows] == [1] * 9
    assert sorted("scrub-0" in table.title or "scrub-1" in table.title for table in tables) == [False, True, True]
    assert sum("older code" in note for table in tables for note in table.notes) == 2


def test_settings_tell_rows_and_tables_apart(tmp_path):
    for rate in (0.1, 0.2):
        facts = {"table": {"model.train.epochs": 3}, "unlearned": {"model.method.learning_rate": rate}}
        save(tmp_path / f"rate{rate}", record(facts=facts), comparison(rate))
    save(tmp_path / "long", record(facts={"table": {"model.train.epochs": 9}}), comparison())
    tables = summarize(collect(tmp_path))
    assert [table.setting for table in tables] == ["epochs=3", "epochs=9"]
    assert [row.name for row in tables[0].blocks[0].rows] == [
        "original",
        "oracle",
        "scrub (learning_rate=0.1)",
        "scrub (learning_rate=0.2)",
    ]


def test_seconds_of_different_machines_are_not_averaged_nor_divided(tmp_path):
    """Passes are: the oracle's are 1000, and the unlearned model's 100."""
    fast = {"original": cost(20.0), "oracle": cost(16.0, 100, 300), "unlearned": cost(4.0, 10, 30, threads=2)}
    result = save(tmp_path / "one", record(cost=fast), comparison())
    text = " ".join(printed(result).split())
    assert "4.0x" not in text and "how much faster" not in text
    assert (
        "Seconds do not compare: the oracle's are of EPYC, 8 cores, 1 thread, the unlearned model's of EPYC, 8 cores, 2 threads."
        in text
    )
    assert "oracle 1,000 and unlearned 100" in text
    save(tmp_path / "two", record(seed=1), comparison())
    (table,) = summarize(collect(tmp_path))
    rows = {row.name: row.metrics for row in table.blocks[0].rows}
    assert rows["scrub"]["seconds"].n == 0 and rows["oracle"]["seconds"].n == 2 and rows["scrub"]["passes"].mean == 100
    notes = " ".join(table.notes)
    assert (
        "Seconds of scrub are not averaged" in notes
        and "2 kinds of machine" in notes
        and "oracle 1,000, scrub 100" in notes
    )
    unknown = save(tmp_path / "three", record(seed=2, cost={}), comparison())
    assert "4.0x" not in printed(unknown) and "not recorded" in printed(unknown)


def test_what_is_wrong_at_first_sight_stands_in_the_run_and_beside_the_row(tmp_path):
    results = [
        save(tmp_path / str(seed), record(seed=seed), comparison(value)) for seed, value in enumerate((0.7, 0.8))
    ]
    ruined, sound = results
    assert (
        ruined["objective"] == "infinite"
        and read_objective(ruined) == math.inf
        and list(ruined["flags"]) == ["destroys the model"]
    )
    assert (
        sound["flags"] == {}
        and read_objective(sound) == pytest.approx(0.1)
        and math.isnan(read_objective({"objective": None}))
    )
    assert "The method destroys the model: on retain it is right in 70.0 %" in " ".join(printed(ruined).split())
    tables = summarize(collect(tmp_path))
    assert "scrub [destroys the model in 1 of 2]" in markdown(tables) and any(
        note.startswith("Destroys the model:") for note in tables[0].notes
    )
    lines = list(csv.DictReader(io.StringIO(comma_separated(tables))))
    assert {line["flags"] for line in lines} == {"", "destroys the model (1 of 2)"}
    assert b"destroys the model" in comparison_plot(ruined, None, tmp_path / "picture.png").read_bytes()


def test_a_narrow_terminal_leaves_columns_out_by_name(tmp_path):
    result = save(tmp_path / "run", record("negative_gradient"), comparison())
    save(tmp_path / "other", record("negative_gradient", seed=1), comparison(0.9))
    for width in (60, 80, 100, 140):
        out = io.StringIO()
        print_tables(summarize(collect(tmp_path)), gap=False, console=Console(file=out, width=width))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width and ("Too narrow for" in out.getvalue()) == (width < 140)
        assert "85.0 ± 7.1" in out.getvalue() and "negative_gradient" in out.getvalue()
        shown = " ".join(out.getvalue().split())
        for heading in (column[1] for column in COLUMNS):
            assert heading in shown or all(word in shown for word in heading.split()), (
                heading
            )  # in the table, or named as left out
        narrow = io.StringIO()
        print_comparison(result, console=Console(file=narrow, width=width))
        assert max(map(len, narrow.getvalue().splitlines())) <= width and "80.0" in narrow.getvalue()
        assert ("4.0x" in narrow.getvalue()) != bool(re.search(r"Too narrow for[^:]* seconds:", narrow.getvalue()))
        assert "non-member %" in narrow.getvalue() or width > 60
        assert "…" not in narrow.getvalue() + out.getvalue()


@pytest.mark.parametrize("gap", [False, True])
def test_whatever_fits_a_terminal_is_whole_and_the_share_stands_with_its_attack(tmp_path, gap):
    """A long name, or a wide number, takes letters of no other column."""
    for seed, value in enumerate((0.7, 0.8)):
        numbers = comparison(value)
        for model in numbers:
            numbers[model]["membership_attack_accuracy"] = entry(0.123 + value, 0.55, 0.65)
        for task in (SAMPLE, CLASS):
            save(tmp_path / f"{task['kind']}{seed}", record("boundary_expand", seed, task=task), numbers)
    tables = summarize(collect(tmp_path))
    wide = [cells(row, tables[0], gap) for block in tables[0].blocks for row in block.rows]
    for width in range(60, 220, 7):
        out = io.StringIO()
        print_tables(tables, gap, console=Console(file=out, width=width))
        lines = [line.split() for line in out.getvalue().splitlines() if line.rstrip().endswith(" 2")]
        kept = {len(line) for line in lines if "boundary_expand" in line}
        assert len(lines) == len(wide) and len(kept) == 1, width  # every row up to its n, and the blocks alike
        for line, row in zip(lines, wide, strict=True):
            numbers_shown = [word for word in line if re.fullmatch(r"[+-]?\d+\.\d+", word)]
            assert set(numbers_shown) <= {word for cell in row for word in cell.split()}, width
        named = (
            out.getvalue().split("Too narrow for")[-1].split(": widen")[0] if "Too narrow for" in out.getvalue() else ""
        )
        assert ("judged" in named) == ("attack right" in " ".join(named.split())), width


def test_footnotes_tell_what_a_reader_must_know(tmp_path):
    save(tmp_path / "a", record(), comparison(auc=(0.8, 0.7, 0.9, 60)))
    save(tmp_path / "b", record(seed=1, commit="def"), comparison(auc=(0.5, 0.1, 0.9, 12)))
    (table,) = summarize(collect(tmp_path))
    notes = " ".join(table.notes)
    assert "In 1 of 2 oracles 0.5 lies outside" in notes and "too few to tell" in notes
    assert "2 different states of the code" in notes
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
    (tmp_path / "report.csv").unlink()
    (tmp_path / "report.csv").mkdir()  # stands in for a folder that cannot be written to, as the tests may run as root
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert (
        "Oracle" in said.out
        and said.err.count("\n") == 1
        and "cannot be written to" in said.err
        and "--format" in said.err
    )
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
    light = "import speechforget.report.console, speechforget.report.record, speechforget.evaluation.compare;"
    light += "import speechforget.evaluation.agreement, speechforget.evaluation.divergence;"
    for code in (report + heavy % "'x'", light + heavy % "'matplotlib', 'sklearn', 'scipy', 'pandas'"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_sweep_lists_what_is_wrong_at_first_sight(tmp_path, capsys):
    for place, (objective, flags) in enumerate(
        [(math.inf, ["destroys the model"]), (0.2, []), (None, ["does nothing"])]
    ):
        outcome = {
            "overrides": [f"seed={place}"],
            "outcome": "done",
            "objective": objective,
            "reason": "",
            "flags": flags,
        }
        write_json(tmp_path / f"{place}.json", outcome)
    assert summarise(tmp_path) == 0
    lines = [line.split("seed=")[1] for line in capsys.readouterr().out.splitlines() if "seed=" in line]
    assert lines == ["0  objective inf  destroys the model", "1  objective 0.2000", "2  does nothing"]
