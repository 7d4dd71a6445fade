"""The page of a report: its numbers, what it hides, its files, and the mistakes it explains."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as some
from support.pages import make_result, write_report
from support.results import CLASS, comparison, entry, record, save, tables_below
from support.score_tables import make_tables

from speechforget.cli.report import main
from speechforget.cli.verify import verify
from speechforget.errors import UserError
from speechforget.evaluation.evidence import Evidence
from speechforget.evaluation.membership import auc
from speechforget.page.bands import bands, without_numbers
from speechforget.page.published import published
from speechforget.page.render import charts, library
from speechforget.page.rows import grids, slices
from speechforget.record import canonical
from speechforget.record.canonical import islands, read_record
from speechforget.record.find import find
from speechforget.record.salt import read_salt
from speechforget.report.charts.across import gap_against_cost
from speechforget.report.charts.models import confusion, layers, relearning, words
from speechforget.report.charts.scene import Scene, short, thinned
from speechforget.report.charts.utterances import attack_curve, embedding_map, losses, utterances


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    for method in ("none", "scrub"):
        make_result(folder, method)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(output):
    return (output / "report.html").read_text()


def scene(kind="sample", oracles=3, **entries):
    tables = make_tables(kind, 0, 400, oracles=oracles)
    numbers = {model: dict(entries) for model in ("original", "oracle", "unlearned")}
    names = np.array([f"n{row}" for row in range(400)])
    return Scene(numbers, tables, names, tables.classes, tables.speaker)


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def columns(chart):
    return {name: [row[place] for row in chart["rows"]] for place, name in enumerate(chart["columns"])}


def test_the_page_holds_the_record_that_vouches_for_all_of_it(output, page, capsys):
    found = islands(page.encode())
    told = read_record(output / "report.html")
    assert set(told["attachments"]) == {"charts", "specs", "page"} and set(found) == {"record", "charts", "specs"}
    assert told["attachments"]["charts"] == hashlib.sha256(found["charts"]).hexdigest()
    assert verify(output / "report.html", hashes_only=True) == 0
    changed = output / "changed.html"
    changed.write_text(page.replace("too little to tell", "within", 1))
    capsys.readouterr()
    assert verify(changed, output, hashes_only=True) == 1
    assert "page around the record changed" in capsys.readouterr().out


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(page):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    assert policy.startswith("default-src 'none'") and "unsafe-eval" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts}
    allowed = re.search(r"script-src ([^;]+)", policy)[1].split()
    assert hashes == set(allowed) and len(scripts) == 3
    assert not re.search(r"<(img|link|script|iframe|object)[^>]*(src|href)=\"(?!data:,)", without_scripts(page))


def test_ids_are_salted_hashes_unless_they_are_asked_for(output, page, tmp_path):
    ids = (next((output / "result").glob("scrub*")) / "forget.txt").read_text().split()
    assert not any(identity in page for identity in ids)
    told = read_record(output / "report.html")
    assert find(told, read_salt(output / "record_salt"), ids)[0].absent == []
    hashed = {read_salt(output / "record_salt").hashed(identity)[:12] for identity in ids}
    key = next(entry["key"] for entry in told["results"] if entry["method"] == "scrub")
    shown = columns(json.loads(islands(page.encode())["charts"])["results"][key[:12]]["utterances"])["name"]
    assert hashed == set(shown)
    make_result(tmp_path)
    assert ids[0] in write_report(tmp_path, "--ids").read_text()


def test_text_of_users_cannot_become_markup(tmp_path):
    make_result(tmp_path, about={"dataset": "<script>alert(1)</script>", "notes": ["a </script> & <b>"]})
    text = write_report(tmp_path).read_text()
    assert "<script>alert" not in without_scripts(text) and "&lt;script&gt;alert" in text
    assert "a &lt;/script&gt; &amp; &lt;b&gt;" in text
    assert len(re.findall("</script>", text)) == 6


def test_a_drawing_says_what_the_sentence_says():
    one = Evidence("membership_auc", 0.61, 0.9, 0.5, 0.45, 0.55, 1, True)
    sentence = f"There is evidence of recordings left ({one})."
    (band,) = bands({"audit": None}, sentence)
    assert band.text == "0.61, oracles 0.45 to 0.55, original 0.9" and not band.inside
    assert band.low < band.high < band.value < band.original
    assert without_numbers(sentence) == "There is evidence of recordings left."
    figure = {"name": "exposure", "model": "original", "value": 2.5}
    told = "Not told apart (exposure 0.1, oracles -0.2 to 0.3); the same attacks find the original."
    (band,) = bands({"audit": {"figures": [figure]}}, told)
    assert band.inside and band.text.endswith("original 2.5")
    assert without_numbers(told) == "Not told apart; the same attacks find the original."


@given(some.lists(some.floats(-1e4, 1e4, allow_nan=False), min_size=4, max_size=4))
def test_every_drawing_stays_in_its_frame(numbers):
    value, original, *ends = numbers
    one = Evidence("x_1", value, original, 0.0, min(ends), max(ends), 0, True)
    (band,) = bands({"audit": None}, f"Said (y 1, oracles 1 to 2; {one}).".replace("y 1, oracles 1 to 2; ", ""))
    assert all(0 <= place <= 100 for place in (band.value, band.low, band.high, band.original))


def test_losses_are_shares_that_add_up_to_all():
    found = columns(losses(scene()))
    totals = {}
    for model, group, share in zip(found["model"], found["group"], found["share"], strict=True):
        totals[model, group] = totals.get((model, group), 0) + share
    assert len(totals) == 9 and all(total == pytest.approx(100, abs=0.1) for total in totals.values())


def test_the_attack_curve_has_the_area_of_the_metric():
    shown = scene()
    found = attack_curve(shown)
    for model in ("original", "oracle", "unlearned"):
        rows = [row for row in found["rows"] if row[0] == model]
        area = np.trapezoid([row[2] for row in rows], [row[1] for row in rows])
        assert area == pytest.approx(auc(shown.tables, model)["membership_auc"].value, abs=0.02)
        assert rows[0][1:3] == [0, 0] and rows[-1][1:3] == [1, 1]
        assert all(low <= true <= high for _, _, true, low, high in rows)


def test_an_utterance_that_no_model_changed_has_as_much_left_as_known():
    shown = scene()
    same = Scene(
        shown.comparison,
        type(shown.tables)(**{**vars(shown.tables), "unlearned": shown.tables.original}),
        *list(vars(shown).values())[2:],
    )
    found = columns(utterances(same))
    assert found["known"] == found["left"]
    count = int((shown.tables.original.role == "forget").sum())
    assert len(found["name"]) == count and sum(found["worst"]) == -(-count // 20)
    worst = [left for left, marked in zip(found["left"], found["worst"], strict=True) if marked]
    assert min(worst) >= max(left for left, marked in zip(found["left"], found["worst"], strict=True) if not marked)


def test_without_an_oracle_charts_say_so_and_the_others_stand():
    alone = scene(oracles=0)
    assert {row[0] for row in losses(alone)["rows"]} == {"original", "unlearned"}
    assert set(columns(utterances(alone))["known"]) == {None}
    for chart in (words, layers):
        assert "no oracle" in chart(alone)["reason"]


def test_confusion_is_of_forgotten_classes_alone():
    assert confusion(scene())["reason"] == "The request names no whole class."
    found = confusion(scene("class"))
    shares = {}
    for model, true, _, share in found["rows"]:
        shares[model, true] = shares.get((model, true), 0) + share
    assert set(shares) == {(model, "one") for model in ("original", "oracle", "unlearned")}
    assert all(total == pytest.approx(100, abs=0.1) for total in shares.values())


def test_relearning_and_layers_come_from_the_result():
    number = {**entry(0.7), "null_low": 0.6, "null_high": 0.8}
    shown = scene(
        probe_label_forget_max=entry(1.0, gap=1.0),
        relearn_5_final=number,
        relearn_head_final=number,
        accuracy_forget=entry(0.2),
        probe_label_stem=entry(0.5, gap=0.1),
        probe_label_max=entry(1.0, gap=1.0),
    )
    found = relearning(shown)["rows"]
    assert found[:2] == [["original", 0, 20, None, None], ["original", 5, 70, None, None]]
    assert ["oracle", 5, 70, 60, 80] in found
    assert layers(shown)["rows"] == [[model, "label", "stem", 10, None, None] for model in ("original", "unlearned")]
    assert "evaluation=full" in relearning(scene())["reason"] and "evaluation=full" in layers(scene())["reason"]


def test_the_map_uses_the_axes_of_the_original():
    tables = make_tables("sample", 0, 400)
    embedding = np.random.default_rng(0).normal(size=(400, 3)) * [9, 3, 0.1]
    for scores in (tables.original, tables.unlearned):
        object.__setattr__(scores, "embedding", embedding)
    found = embedding_map(Scene({}, tables, np.arange(400).astype(str), tables.classes, None))
    halves = [[row[1:] for row in found["rows"] if row[0] == model] for model in ("original", "unlearned")]
    assert halves[0] == halves[1] and "100 %" in found["note"]


def test_the_frontier_is_of_rows_that_none_beats_in_both(tmp_path):
    for method, unlearned, passes in (("best", 0.89, 10), ("cheap", 0.8, 1), ("beaten", 0.7, 20)):
        about = record(method)
        about["cost"]["unlearned"]["forward_backward"] = 1000 * passes
        save(tmp_path / method, about, comparison(unlearned))
    found = columns(gap_against_cost(tables_below(tmp_path)))
    assert dict(zip(found["method"], found["frontier"], strict=True)) == {"best": True, "cheap": True, "beaten": False}


@given(some.floats(allow_nan=True, allow_infinity=True))
def test_numbers_are_short_and_keep_four_digits(number):
    found = short(number)
    assert found is not None or not abs(number) < 1.797e308  # the largest numbers would round to infinity
    assert found is None or math.isfinite(found)
    assert found is None or found == pytest.approx(number, rel=6e-4)


def test_who_is_kept_does_not_depend_on_who_else_is_there():
    names = np.array([f"n{row}" for row in range(100)])
    first, more = thinned(np.arange(50), 20, names), thinned(np.arange(100), 20, names)
    assert len(first) == len(more) == 20 and set(more[more < 50]) <= set(first)


def test_published_numbers_stand_beside_the_same_setting_alone(tmp_path):
    about = {"dataset": "voxceleb1", "label": "speaker", "task": CLASS}
    for method in ("scrub", "ssd"):
        save(tmp_path / method, record(method, **about), comparison())
    (grid,) = grids(tables_below(tmp_path), {})
    named = {line.name: line.cells[2].text for line in [*grid.references, *grid.lines] if line.style == "published"}
    assert named == {"original, published": "85.6", "scrub, published": "39.3"}
    assert any("Table 2" in note for note in grid.notes)
    assert published("espeak", "word", "class", "scrub") is None


def test_numbers_within_the_band_of_oracles_are_grey_and_others_bold(tmp_path):
    numbers = comparison(unlearned=0.8, oracle=0.9)
    for name, values in numbers["unlearned"].items():
        if name.startswith("accuracy"):
            spread = 0.001 if name == "accuracy_forget" else 0.2
            values |= {"oracles": 3, "oracle_spread": spread, "null_low": 0.9 - spread, "null_high": 0.9 + spread}
    save(tmp_path / "one", record(), numbers)
    (grid,) = grids(tables_below(tmp_path), {})
    style = {cell.style for cell in grid.lines[0].cells}
    place = [column.metric for column in grid.columns].index
    names = ("accuracy_forget", "accuracy_retain", "seconds")
    forget, retain, seconds = (grid.lines[0].cells[place(name)] for name in names)
    assert not {"told_from_oracles", "cgum"} & {column.metric for column in grid.columns}
    assert (forget.style, retain.style, seconds.style) == ("outside", "within", "")
    assert retain.band.endswith("to 100.0") and style <= {"", "within", "outside"}


def test_all_tables_of_a_page_have_the_columns_that_one_of_them_needs(tmp_path):
    """Rows of two tables are pinned side by side, cell by cell."""
    save(tmp_path / "words", record("scrub"), comparison())
    told = comparison()
    told["unlearned"]["cgum"] = {**told["unlearned"]["accuracy_test"], "value": 0.25}
    save(tmp_path / "speakers", record("scrub", label="speaker"), told)
    found = grids(tables_below(tmp_path), {})
    metrics = [[column.metric for column in grid.columns] for grid in found]
    assert len(found) == 2 and metrics[0] == metrics[1] and "told_from_oracles" not in metrics[0]
    place = metrics[0].index("cgum")
    assert sorted(grid.lines[0].cells[place].text for grid in found) == ["0.250", "–"]
    assert all(len(line.cells) == len(metrics[0]) for grid in found for line in [*grid.references, *grid.lines])


def test_slices_have_names_that_can_be_guessed(output):
    assert (output / "report" / "espeak_word_sample.csv").read_text().count("\n") > 20
    tables = tables_below(output)
    assert [name for name, _ in slices(tables)] == ["report/espeak_word_sample.csv"]


def test_a_purged_score_table_leaves_a_page_that_says_so(tmp_path, caplog):
    make_result(tmp_path)
    for path in (tmp_path / "scores").glob("unlearned*/DONE"):
        path.unlink()
    text = write_report(tmp_path).read_text()
    (found,) = json.loads(islands(text.encode())["charts"])["results"].values()
    assert "score tables cannot be read" in found["losses"]["reason"] and "has no charts" in caplog.text


@pytest.mark.slow
def test_audio_is_inside_only_if_it_is_asked_for(tones, small, command, tmp_path):
    """Read back from the page, the sound of each forgotten recording is that of its file."""
    done = command(*small, "task=class", f"output={tmp_path}", "train.epochs=1", "method=none")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "result").iterdir()
    text = write_report(tmp_path, "--ids", "--audio", folder.name).read_text()
    (sounds,) = json.loads(islands(text.encode())["audio"]).values()
    ids = (folder / "forget.txt").read_text().split("\n")[:-1]
    assert set(sounds) == set(ids)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[ids[0]])), dtype="int16")
    assert rate == 8000 and np.abs(samples - soundfile.read(tones / ids[0], dtype="int16")[0]).max() <= 1
    assert verify(tmp_path / "report.html") == 0
    assert "audio" not in islands(write_report(tmp_path).read_bytes())


@pytest.mark.parametrize(
    ("options", "words_of_error"),
    [
        (["--audio", "0000"], "names 0 of the 2 results"),
        (["--audio", ""], "names 0 of the 2 results"),
        (["--policy", "nowhere.yaml"], "The policy nowhere.yaml cannot be read"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(output, options, words_of_error, capsys):
    before = (output / "report.html").stat().st_mtime_ns
    assert main([str(output), *options]) == 1
    told = capsys.readouterr().err
    assert words_of_error in told and told.count("\n") == 1
    assert (output / "report.html").stat().st_mtime_ns == before


def test_every_chart_has_a_title_a_description_and_a_specification_that_compiles():
    vl_convert = pytest.importorskip("vl_convert")
    for name, chart in charts().items():
        assert ":" in chart["title"] and chart["about"].endswith("."), name
        spec = chart.get("spec") or charts()[chart["like"]]["spec"]
        text = re.sub(r'"\$(\w*panel|width|bars|cells)"', "200", json.dumps(spec))
        text = re.sub(r'"\$(columns|thirds)"', "2", text)
        text = re.sub(r'"\$\w+"', '"#123456"', text)
        assert vl_convert.vegalite_to_vega({**json.loads(text), "data": {"values": []}})["marks"], name
    assert "vegaEmbed" in library()


def test_a_large_record_is_packed_and_reads_back_the_same(output, page, tmp_path, monkeypatch):
    told = read_record(output / "report.html")
    monkeypatch.setattr(canonical, "LARGE", 100)
    rest = canonical.without_record(page.encode()).decode()
    packed = tmp_path / "report.html"
    packed.write_text(canonical.embed(rest, json.loads(json.dumps(told))))
    assert packed.stat().st_size < (output / "report.html").stat().st_size - 5000
    assert read_record(packed) == told
    assert verify(packed, output, hashes_only=True) == 0
    packed.write_text(packed.read_text().replace("gzip:H4sI", "gzip:H4sJ"))
    with pytest.raises(UserError, match="holds no record"):
        read_record(packed)
