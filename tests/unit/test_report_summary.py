"""Many results as tables: which are averaged, which are rows or tables of their own, and what notes say."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from support.results import SAMPLE, comparison, cost, entry, printed, record, save, tables_below, words

from speechforget.report.collect import collect
from speechforget.report.layout import comma_separated, latex, markdown
from speechforget.report.record import write_result


def only(tables, block=0):
    """The rows of a block of the only table, without original and oracle."""
    (table,) = tables
    rows = [row for row in table.blocks[block].rows if row.artefact == "unlearned"]
    return [row.name for row in rows], [row.runs for row in rows]


def about(folder, day):
    (folder / "about.json").write_text(json.dumps({"time": f"2026-01-{day:02}T00:00:00+0000"}))


def test_notes_of_a_result_are_notes_of_its_table_once(tmp_path):
    for seed in (0, 1):
        save(tmp_path / str(seed), record(seed=seed, notes=["Mind this.", f"Mind seed {seed}."]), comparison())
    (table,) = tables_below(tmp_path)
    assert [note for note in table.notes if note.startswith("Mind")] == ["Mind this.", "Mind seed 0.", "Mind seed 1."]
    for text in (markdown([table]), latex([table]), comma_separated([table]).splitlines()[1]):
        assert text.count("Mind this.") == 1


def test_methods_with_untried_requests_are_one_note_of_a_table(tmp_path):
    for method, share in (("scrub", 12), ("salun", 13), ("none", None)):
        sentence = share and f"The request is {share} % of the training recordings."
        result = save(tmp_path / method, record(method, untried=sentence), comparison())
        assert (str(sentence) in words(printed(result))) == bool(sentence)
    (table,) = tables_below(tmp_path)
    (note,) = [note for note in table.notes if "tried" in note]
    assert "salun, scrub." in note and "none" not in note
    assert not any("The request is" in other for other in table.notes)


def test_means_and_deviations_are_exact_and_shared_models_count_once(tmp_path):
    values = {"scrub": (0.7, 0.8, 0.85), "salun": (0.6, 0.65, 0.9)}
    oracles = (0.90, 0.92, 0.97)
    for method, numbers in values.items():
        for seed, value in enumerate(numbers):
            save(tmp_path / f"{method}{seed}", record(method, seed), comparison(value, oracles[seed]))
    (table,) = tables_below(tmp_path)
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


@pytest.mark.parametrize(
    ("level", "fact", "values", "shown"),
    [
        ("unlearned", "model.method.optimizer.name", ["sgd", "adamw"], ["optimizer.name=adamw", "optimizer.name=sgd"]),
        ("unlearned", "model.method.learning_rate", [0.1, 0.2], ["learning_rate=0.1", "learning_rate=0.2"]),
        ("unlearned", "model.code", [["f" * 64, code * 64] for code in "ab"], ["code ", "code "]),
        ("metrics", "accuracy", ["a" * 64, "b" * 64], ["metrics code ", "metrics code "]),
    ],
)
def test_runs_that_differ_in_more_than_seeds_are_never_averaged(tmp_path, level, fact, values, shown):
    for seed, value in enumerate(values):
        save(tmp_path / str(seed), record(seed=seed, facts={level: {fact: value}}), comparison())
    names, runs = only(tables_below(tmp_path))
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
    tables = tables_below(tmp_path)
    assert [row.runs for table in tables for row in table.blocks[0].rows] == [1] * 6
    assert words in [table.setting for table in tables] and len({table.title for table in tables}) == 2


def test_seeds_alone_make_a_mean_and_the_name_of_a_dataset_a_table(tmp_path):
    for seed, task_seed, split_seed in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        about = record(seed=seed, task={**SAMPLE, "seed": task_seed}, facts={"split_seed": split_seed})
        save(tmp_path / f"{seed}{task_seed}{split_seed}", about, comparison())
    save(tmp_path / "named", record(dataset="clinic"), comparison())
    named, other = tables_below(tmp_path)
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
    (table,) = tables_below(tmp_path)
    assert [(row.runs, row.metrics["kl_test"].n, row.metrics["accuracy_test"].n) for row in table.blocks[0].rows] == [
        (2, 1, 2)
    ] * 3


def test_requests_that_differ_are_blocks_of_their_own(tmp_path):
    for code in "ab":
        task = {"kind": "sample", "by": "ids", "ids": "list.txt", "seed": 0}
        save(tmp_path / code, record(task=task, facts={"request": {"ids": code * 64}}), comparison())
    (table,) = tables_below(tmp_path)
    assert [block.title.split(":")[0] for block in table.blocks] == [
        "sample unlearning (ids aaaaaa)",
        "sample unlearning (ids bbbbbb)",
    ]


def test_runs_that_nothing_known_tells_apart_are_not_averaged(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name, record(artefacts={"original": "o", "oracle": "r", "unlearned": name}), comparison())
    names, runs = only(tables_below(tmp_path))
    assert runs == [1, 1] and all(name.startswith("scrub (key ") for name in names) and names[0] != names[1]


@pytest.mark.parametrize("recorded", [True, False])
def test_of_two_results_of_the_same_models_the_newest_is_shown_and_the_older_named(tmp_path, recorded):
    """They were compared by different code. Names sort against time."""
    for name, day, value, code in (("a", 2, 0.7, "a"), ("b", 3, 0.8, "b"), ("c", 1, 0.6, "c")):
        run = record(facts={"metrics": {"accuracy": code * 64}})
        if code != "b" and not recorded:
            del run["identity"]
        save(tmp_path / name, run, comparison(value))
        about(tmp_path / name, day)
    (table,) = tables_below(tmp_path)
    assert [row.metrics["accuracy_test"].mean for row in table.blocks[0].rows] == [1.0, 0.9, 0.8]
    (note,) = [note for note in table.notes if "newest" in note]
    assert "a (2026-01-02 00:00)" in note and "c (2026-01-01 00:00)" in note and "b (" not in note


def test_two_results_of_the_same_models_and_numbers_are_one_without_a_word(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, record(), comparison())
    tables = tables_below(tmp_path)
    assert only(tables) == (["scrub"], [1]) and "newest" not in " ".join(tables[0].notes)


def test_results_of_older_code_are_each_alone_and_say_so(tmp_path):
    for seed in (0, 1):
        run = record(seed=seed)
        del run["identity"], run["cost"]
        save(tmp_path / f"scrub-{seed}", run, comparison())
    save(tmp_path / "new", record(seed=2), comparison())
    tables = tables_below(tmp_path)
    assert [row.runs for table in tables for row in table.blocks[0].rows] == [1] * 9
    assert sorted("scrub-0" in table.title or "scrub-1" in table.title for table in tables) == [False, True, True]
    assert sum("older code" in note for table in tables for note in table.notes) == 2


def test_settings_tell_rows_and_tables_apart(tmp_path):
    for rate in (0.1, 0.2):
        facts = {"table": {"model.train.epochs": 3}, "unlearned": {"model.method.learning_rate": rate}}
        save(tmp_path / f"rate{rate}", record(facts=facts), comparison(rate))
    save(tmp_path / "long", record(facts={"table": {"model.train.epochs": 9}}), comparison())
    tables = tables_below(tmp_path)
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
    text = words(printed(result))
    assert "4.0x" not in text and "speed-up" not in text
    assert "Seconds are not comparable: the oracle's were measured on EPYC, 8 cores, 1 thread" in text
    assert "the unlearned model's on EPYC, 8 cores, 2 threads." in text
    assert "oracle 1,000 and unlearned 100" in text
    save(tmp_path / "two", record(seed=1), comparison())
    (table,) = tables_below(tmp_path)
    rows = {row.name: row.metrics for row in table.blocks[0].rows}
    assert rows["scrub"]["seconds"].n == 0 and rows["oracle"]["seconds"].n == 2 and rows["scrub"]["passes"].mean == 100
    notes = " ".join(table.notes)
    assert "Seconds of scrub are not averaged" in notes and "2 kinds of machine" in notes
    assert "oracle 1,000, scrub 100" in notes
    unknown = save(tmp_path / "three", record(seed=2, cost={}), comparison())
    assert "4.0x" not in printed(unknown) and "not recorded" in printed(unknown)


def test_footnotes_tell_what_a_reader_must_know(tmp_path):
    save(tmp_path / "a", record(), comparison(auc=(0.8, 0.7, 0.9, 60)))
    save(tmp_path / "b", record(seed=1, commit="def"), comparison(auc=(0.5, 0.1, 0.9, 12)))
    (table,) = tables_below(tmp_path)
    notes = " ".join(table.notes)
    assert "For 1 of 2 oracles 0.5 is outside" in notes and "For 1 of 2 oracles the attack cannot be judged" in notes
    assert "2 different commits" in notes
    text = markdown([table])
    assert "Oracle \\*" in text and "Original \\*" not in text


def test_without_holdout_is_a_table_of_its_own_and_says_so(tmp_path):
    nothing = (None, None, None, 0)
    numbers = comparison(auc=nothing)
    for metrics in numbers.values():
        metrics |= {"membership_auc": entry(*nothing, None), "membership_nonmember_share": entry(*nothing, None)}
    save(tmp_path / "without", record(holdout=False), numbers)
    save(tmp_path / "with", record(), comparison())
    without, with_holdout = tables_below(tmp_path)
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


def test_statistics_of_a_single_run_have_no_deviation(tmp_path):
    save(tmp_path / "run", record(), comparison())
    row = tables_below(tmp_path)[0].blocks[0].rows[-1]
    assert math.isnan(row.metrics["accuracy_test"].std) and row.metrics["accuracy_test"].n == 1
    assert row.metrics["accuracy_test_forgotten"].n == 0
