"""Tables as text: Markdown, CSV, LaTeX, terminals of any width, and the command that writes them."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest
from rich.console import Console
from support.results import CLASS, SAMPLE, comparison, entry, printed, record, save, tables_below, words

from speechforget.cli.report import main
from speechforget.errors import UserError
from speechforget.report.collect import collect
from speechforget.report.console import columns_of as run_columns
from speechforget.report.console import print_comparison, threshold_sentence
from speechforget.report.layout import cells, columns_of, comma_separated, latex, markdown, print_tables
from speechforget.report.plot import comparison_plot
from speechforget.report.record import read_objective

SHARE = "membership_nonmember_share"


def test_layout_is_that_of_the_paper(tmp_path):
    """Tables by dataset, label and model; blocks by request, samples first; rows original, oracle, methods."""
    for label in ("speaker", "word"):
        for task in (CLASS, SAMPLE, {**SAMPLE, "percent": 10}):
            for method in ("scrub", "none"):
                about = record(method, task=task, label=label)
                save(tmp_path / f"{label}{task['kind']}{task.get('percent')}{method}", about, comparison())
    tables = tables_below(tmp_path)
    assert [table.label for table in tables] == ["speaker", "word"]
    starts = ["sample unlearning (percent=10)", "sample unlearning (percent=5)", "class unlearning:"]
    for block, start in zip(tables[0].blocks, starts, strict=True):
        assert block.title.startswith(start)
    text = markdown(tables)
    first = text.split("\n\n")[1].splitlines()
    names = [line.split("|")[1].strip().strip("*") for line in first[2:]]
    assert names[1:5] == ["Original", "Oracle", "none", "scrub"]
    assert [cell.strip() for cell in first[0].split("|")[2:-1]] == [
        "test %",
        "test of forgotten classes %",
        "forget %",
        "retain %",
        "judged non-member %",
        "attack accuracy %",
        "attack AUC",
        "seconds",
        "n",
    ]
    assert len({line.count("|") for line in first}) == 1
    assert "80.0 |" in text and "±" not in text.split("Mean ±")[0]


def test_a_column_that_some_runs_measure_is_shown_where_one_did(tmp_path):
    save(tmp_path / "run" / "plain", record("scrub"), comparison())
    plain = tables_below(tmp_path)
    assert "told from oracles AUC" not in markdown(plain) + latex(plain)
    told = comparison()
    told["unlearned"]["told_from_oracles"] = entry(0.875, None, None)
    save(tmp_path / "run" / "told", record("scrub", seed=1), told)
    tables = tables_below(tmp_path)
    assert "told from oracles AUC" in markdown(tables) and "0.875 (n 1) |" in markdown(tables)
    assert "CGUM" not in markdown(tables)
    told["unlearned"]["cgum"] = entry(0.5, None, None)
    save(tmp_path / "run" / "benchmark", record("scrub", seed=2), told)
    assert " CGUM |" in markdown(tables_below(tmp_path)) and " 0.500 (n 1) |" in markdown(tables_below(tmp_path))
    assert "0.875 (n 1)" in latex(tables)


def test_special_signs_are_escaped(tmp_path):
    save(tmp_path / "run", record("r_l|%&#*", label="a_b%&#", model="m{~^\\}"), comparison())
    tables = tables_below(tmp_path)
    text = latex(tables)
    assert "A\\_b\\%\\&\\# classification" in text and "r\\_l|\\%\\&\\#*" in text
    assert "m\\{\\textasciitilde \\textasciicircum \\textbackslash \\}" in text
    assert "| r\\_l\\|%&#\\* " in markdown(tables)
    table = pd.read_csv(io.StringIO(comma_separated(tables)))
    assert set(table["label"]) == {"a_b%&#"} and "r_l|%&#*" in set(table["row"])


def test_latex_fits_the_page_is_balanced_and_escaped(tmp_path):
    task = {**CLASS, "classes": ["a" * 60, "b" * 60]}
    save(tmp_path / "a", record("random_label", task=task), comparison())
    save(tmp_path / "b", record("random_label", seed=1, task=task), comparison(0.9))
    tables = tables_below(tmp_path)
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
            folder = tmp_path / f"page-{gap}"
            folder.mkdir()
            (folder / "page.tex").write_text(
                "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}" + text + "\\end{document}"
            )
            done = subprocess.run(
                ["pdflatex", "-interaction=nonstopmode", "page.tex"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0 and "Overfull \\hbox" not in done.stdout


def test_the_share_judged_non_member_is_shown_with_the_accuracy_of_its_attack(tmp_path):
    numbers = comparison()
    for model, found in {"original": 0.6, "oracle": 0.5, "unlearned": 0.7}.items():
        numbers[model]["membership_attack_accuracy"] = entry(found, found - 0.05, found + 0.05)
    assert " –" not in threshold_sentence(save(tmp_path / "shown", record(), numbers))
    reason = "the attack is no better than guessing"
    numbers["oracle"][SHARE] = {**entry(None, count=0, gap=None), "reason": reason}
    text = words(printed(save(tmp_path / "run", record(), numbers)))
    assert "on held-out recordings" in text and "– marks an attack no better than guessing" in text
    assert "original 60.0 % (55.0 to 65.0), oracle 50.0 % (45.0 to 55.0), unlearned 70.0 %" in text
    numbers["unlearned"][SHARE]["gap"] = None
    save(tmp_path / "run", record(), numbers)
    save(tmp_path / "other", record(seed=1), comparison())
    (table,) = tables_below(tmp_path / "run")
    assert "| – | 50.0 |" in words(markdown([table])) and any("no better than guessing" in note for note in table.notes)
    assert not any("guessing" in note for note in tables_below(tmp_path / "other")[0].notes)
    tables = tables_below(tmp_path)
    lines = {line.split("|")[1].strip(): words(line) for line in markdown(tables, gap=True).splitlines() if "|" in line}
    assert "| 40.0 (n 1) |" in lines["Oracle"] and "| 40.0 ± 0.0 | 0.0 (n 1) |" in lines["scrub"]
    table = pd.read_csv(io.StringIO(comma_separated(tables))).set_index(["row", "metric"])
    assert table.loc[("scrub", SHARE), ["n", "gap_n"]].tolist() == [2, 1]


def test_flags_are_shown_in_the_run_and_in_the_row(tmp_path):
    ruined, sound = (
        save(tmp_path / str(seed), record(seed=seed), comparison(value)) for seed, value in enumerate((0.7, 0.8))
    )
    assert ruined["objective"] == "infinite" and read_objective(ruined) == math.inf
    assert list(ruined["flags"]) == ["destroys the model"]
    assert sound["flags"] == {} and read_objective(sound) == pytest.approx(0.1)
    assert math.isnan(read_objective({"objective": None}))
    assert "The method destroys the model: its accuracy on retain is 70.0 %" in words(printed(ruined))
    tables = tables_below(tmp_path)
    assert "scrub [destroys the model in 1 of 2]" in markdown(tables)
    assert any(note.startswith("Destroys the model:") for note in tables[0].notes)
    lines = list(csv.DictReader(io.StringIO(comma_separated(tables))))
    assert {line["flags"] for line in lines} == {"", "destroys the model (1 of 2)"}
    assert b"destroys the model" in comparison_plot(ruined, None, tmp_path / "picture.png").read_bytes()


def test_a_narrow_terminal_leaves_columns_out_by_name(tmp_path):
    result = save(tmp_path / "run", record("negative_gradient"), comparison())
    save(tmp_path / "other", record("negative_gradient", seed=1), comparison(0.9))
    tables = tables_below(tmp_path)
    for width in (60, 80, 100, 140):
        out, narrow = io.StringIO(), io.StringIO()
        print_tables(tables, gap=False, console=Console(file=out, width=width))
        print_comparison(result, console=Console(file=narrow, width=width))
        both = ((out, columns_of(tables[0]), "85.0 ± 7.1"), (narrow, run_columns(result), "80.0"))
        for stream, columns, value in both:
            text, shown = stream.getvalue(), words(stream.getvalue())
            assert max(map(len, text.splitlines())) <= width and value in text and "…" not in text
            for column in columns:  # in the table, or named as left out
                assert column.heading in shown or all(word in shown for word in column.heading.split()), column
        assert ("too narrow for" in words(out.getvalue())) == (width < 140) and "negative_gradient" in out.getvalue()
        shown = words(narrow.getvalue())
        assert ("4.0x" in shown) != bool(re.search(r"too narrow for[^:]* seconds:", shown))


@pytest.mark.parametrize("gap", [False, True])
def test_whatever_fits_a_terminal_is_whole_and_the_share_stands_with_its_attack(tmp_path, gap):
    """A long name, or a wide number, takes letters of no other column."""
    for seed, value in enumerate((0.7, 0.8)):
        numbers = comparison(value)
        for model in numbers:
            numbers[model]["membership_attack_accuracy"] = entry(0.123 + value, 0.55, 0.65)
        for task in (SAMPLE, CLASS):
            save(tmp_path / f"{task['kind']}{seed}", record("boundary_expand", seed, task=task), numbers)
    tables = tables_below(tmp_path)
    wide = [cells(row, tables[0], gap) for block in tables[0].blocks for row in block.rows]
    for width in range(60, 220, 13):
        out = io.StringIO()
        print_tables(tables, gap, console=Console(file=out, width=width))
        lines = [line.split() for line in out.getvalue().splitlines() if line.rstrip().endswith(" 2")]
        kept = {len(line) for line in lines if "boundary_expand" in line}
        assert len(lines) == len(wide) and len(kept) == 1, width  # every row up to its n, and the blocks alike
        for line, row in zip(lines, wide, strict=True):
            numbers_shown = [word for word in line if re.fullmatch(r"[+-]?\d+\.\d+", word)]
            assert set(numbers_shown) <= {word for cell in row for word in cell.split()}, width
        dropped = re.search("too narrow for([^:]*): widen", words(out.getvalue()))
        named = dropped[1] if dropped else ""
        assert ("judged" in named) == ("attack accuracy" in named), width


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
    assert "Oracle" in said.out and said.err.count("\n") == 1
    assert "Cannot write to" in said.err and "--format" in said.err
    with pytest.raises(UserError, match="no folder"):
        collect(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as help_exit:
        main(["--help"])
    assert help_exit.value.code == 0 and "examples:" in capsys.readouterr().out
