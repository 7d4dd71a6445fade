"""The page of a report in a real browser: tables, links, charts, single recordings, keyboard, print, accessibility."""

from __future__ import annotations

import re

import pytest
from support.pages import Watched, browser, copies, make_result, write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for method in ("none", "salun", "scrub"):
        make_result(folder, method, seed=0)
    make_result(folder, "scrub", "class")
    return folder


@pytest.fixture(scope="module")
def report(output):
    return write_report(output)


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def opened(chromium, report):
    with Watched(chromium, report) as page:
        yield page


def methods(page, table="#t1"):
    return page.locator(f"{table} tbody.rows tr:visible th").all_inner_texts()


def test_columns_sort_both_ways_and_the_address_remembers(chromium, report, opened):
    first = methods(opened)
    button = opened.locator("#t1 th[data-sort=accuracy_forget] button")
    button.click()
    heading = opened.locator("#t1 th[data-sort=accuracy_forget]")
    assert heading.get_attribute("aria-sort") == "ascending"
    cells = opened.locator("#t1 tbody.rows td:nth-child(4)")
    values = [float(cell.get_attribute("data-v")) for cell in cells.all()]
    assert values == sorted(values)
    button.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [float(cell.get_attribute("data-v")) for cell in cells.all()] == sorted(values, reverse=True)
    assert opened.locator("#t1 tbody.fixed tr").count() == 2
    opened.locator("#t1 th[data-sort=name] button").click()
    assert methods(opened) == sorted(first)
    fragment = opened.evaluate("location.hash")
    assert "sort=name%2Cascending" in fragment
    with Watched(chromium, report, fragment) as again:
        assert methods(again) == sorted(first)
        assert again.locator("#t1 th[data-sort=name]").get_attribute("aria-sort") == "ascending"


def test_the_filter_hides_rows_and_empty_tables(opened):
    opened.fill("#filter", "salun")
    assert methods(opened) == ["salun"]
    assert not opened.locator("#t2").is_visible()
    assert opened.inner_text("#shown") == "1 of 4 rows"
    opened.fill("#filter", "class unlearning")
    assert methods(opened, "#t2") == ["scrub"] and not opened.locator("#t1").is_visible()
    opened.fill("#filter", "")
    opened.check("#outside")
    assert opened.locator("table.grid tbody.rows tr:visible:not(:has(td.outside))").count() == 0


def test_two_rows_are_pinned_side_by_side_with_their_difference(opened):
    boxes = opened.locator("#t1 input.pin")
    for place in range(3):
        boxes.nth(place).check()
    assert opened.locator("#pinned thead th").all_inner_texts()[1:] == [*methods(opened)[1:], "Difference"]
    assert not boxes.nth(0).is_checked()
    row = opened.locator("#pinned tbody tr", has_text="forget %").last
    first, second, difference = row.locator("td").all_inner_texts()
    numbers = [float(text.split()[0]) for text in (first, second)]
    assert float(difference) == pytest.approx(numbers[1] - numbers[0], abs=0.11)
    opened.click("#pinned button")
    assert not opened.locator("#pinned").is_visible()


def test_a_link_shows_what_its_sender_saw(chromium, report, opened):
    values = opened.locator("#chooser option").all()
    identity = values[2].get_attribute("value")
    opened.select_option("#chooser", identity)
    assert opened.locator("article:visible").get_attribute("data-result") == identity
    opened.fill("#filter", "scrub")
    opened.locator("#t1 input.pin:visible").check()
    fragment = opened.evaluate("location.hash")
    with Watched(chromium, report, fragment) as again:
        assert again.locator("article:visible").get_attribute("data-result") == identity
        assert again.input_value("#filter") == "scrub"
        assert again.locator("#pinned").is_visible()
        again.locator(f"table.grid .key a:visible:not([href='#result={identity}'])").last.click()
        assert again.evaluate("location.hash") != fragment


def test_links_lead_to_files_and_sections_that_exist(opened, report):
    links = [link.get_attribute("href") for link in opened.locator("a").all()]
    for link in dict.fromkeys(links):
        if link.startswith("#result="):
            assert opened.locator(f"article[data-result='{link[8:]}']").count() == 1
        elif link.startswith("#"):
            assert opened.locator(link).count() == 1, link
        else:
            assert (report.parent / link).read_text().startswith("dataset,label,model"), link


def test_every_chart_is_drawn_or_says_why_not_and_has_its_data(opened):
    for figure in opened.locator("figure[data-chart]").all():
        figure.scroll_into_view_if_needed()
        opened.wait_for_function(
            "name => document.querySelector(`#plot-${name} svg`) || document.querySelector(`#plot-${name} .empty`)",
            arg=figure.get_attribute("data-chart"),
        )
        if figure.locator(".empty").count():
            assert re.match(r"(The|No|There) .+\.$", figure.locator(".plot").inner_text())
            continue
        assert figure.locator("svg path, svg rect, svg line").count() > 3
        figure.locator("summary").click()
        figure.locator("details tbody tr").nth(1).wait_for()
    drawn = opened.locator("figure[data-chart]:has(svg)").evaluate_all("all => all.map(each => each.dataset.chart)")
    assert {"losses", "margins", "attack", "relearning", "layers", "words", "map", "cost"} <= set(drawn)


def test_a_recording_is_found_by_its_hash_and_no_id_is_inside(chromium, report, opened):
    opened.locator("#recordings").scroll_into_view_if_needed()
    button = opened.locator("#recordings tbody button").first
    name = button.inner_text()
    button.click()
    assert opened.locator("#detail table tbody tr").count() == 3
    assert name in opened.inner_text("#detail h3")
    opened.fill("#find", name[:8])
    assert opened.locator("#recordings tbody tr").count() == 1
    with Watched(chromium, report, opened.evaluate("location.hash")) as again:
        again.wait_for_selector("#detail h3")
        assert name in again.inner_text("#detail h3")
    assert ".wav" not in report.read_text()


def test_the_keyboard_alone_is_enough(opened):
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    assert opened.locator(".skip").bounding_box()["x"] >= 0
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"
    opened.locator("#t1 th[data-sort=accuracy_test] button").focus()
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.keyboard.press("Enter")
    assert opened.locator("#t1 th[data-sort=accuracy_test]").get_attribute("aria-sort") == "ascending"
    opened.locator("#t1 input.pin").first.focus()
    opened.keyboard.press("Space")
    assert opened.locator("#pinned").is_visible()


def draw_all(page):
    for figure in page.locator("figure[data-chart]").all():
        figure.scroll_into_view_if_needed()
        page.wait_for_timeout(50)
    page.locator("#recordings").scroll_into_view_if_needed()
    page.wait_for_selector("#recordings tbody tr")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(chromium, report, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = chromium.new_context(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    page = context.new_page()
    page.goto(report.as_uri())
    draw_all(page)
    page.locator("#t1 input.pin").first.check()
    page.locator("#recordings tbody button").first.click()
    found = axe.Axe().run(page).response["violations"]
    context.close()
    assert not [(each["id"], [node["html"][:160] for node in each["nodes"]][:3]) for each in found]


def test_a_phone_needs_no_sideways_scrolling(chromium, report):
    with Watched(chromium, report, viewport={"width": 360, "height": 740}) as page:
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator("#chooser").select_option(index=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_one_request_prints_on_two_sheets(chromium, report, tmp_path):
    with Watched(chromium, report) as page:
        draw_all(page)
        content = page.pdf(prefer_css_page_size=True)
        page.emulate_media(media="print")
        assert not page.locator("#filter, nav, #plots, .copy").filter(visible=True).count()
        chosen = page.locator("article:visible").get_attribute("data-result")
        table = page.locator(f"table.grid:has(a[href='#result={chosen}'])").get_attribute("id")
        shown = page.locator("table.grid").filter(visible=True)  # the table with the chosen result, and no other
        assert shown.evaluate_all("all => all.map(each => each.id)") == [table]
        assert shown.locator("thead th").first.is_visible()
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == 2
    for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", content):
        assert [float(each) for each in box.split()] == pytest.approx([0, 0, 595, 842], abs=1)  # A4 in points


def test_without_scripts_the_verdict_and_the_tables_are_there(chromium, report):
    with Watched(chromium, report, java_script_enabled=False) as page:
        assert page.locator("article:visible").count() == 4
        assert page.locator("table.grid tbody tr:visible").count() == 8
        assert not page.locator("#filters, #plots").filter(visible=True).count()
        assert page.locator("noscript p").is_visible()


def test_a_thousand_results_load_at_once(chromium, tmp_path):
    folder = make_result(tmp_path)
    tasks = [{"percent": percent} for percent in range(1, 11)]
    copies(folder, [f"method{number}" for number in range(20)], tasks, 5)
    path = write_report(tmp_path)
    assert path.stat().st_size < 20e6
    with Watched(chromium, path, opens=False) as page:
        clock = page.context.new_cdp_session(page)
        clock.send("Performance.enable")
        page.set_default_timeout(120_000)
        page.goto(path.as_uri())
        # Seconds of the processor: others may use it, too.
        spent = {each["name"]: each["value"] for each in clock.send("Performance.getMetrics")["metrics"]}
        assert page.locator("#chooser option").count() == 1001
        page.fill("#filter", "method7")
        assert methods(page) == ["method7"]
    assert spent["ThreadTime"] < 3
