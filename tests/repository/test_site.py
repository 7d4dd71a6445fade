"""The documentation as a site: its reference pages are up to date, it builds without a warning, a browser reads it."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import reference  # noqa: E402

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def test_the_reference_says_what_the_configurations_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_a_key_is_read_with_its_default_its_type_and_its_comments(tmp_path: Path) -> None:
    (path := tmp_path / "some.yaml").write_text(
        "# What the file is.\n"
        "name: some\n"
        "rate: 1.0e-3   # Hz, 'a # b' is no comment\n"
        "  # of the second line\n"
        "empty:\n"
        "group:         # of three\n"
        "  # above\n"
        '  text: "x # y"  # behind\n'
        "  flag: true\n"
        "several: [1, 2]\n"
    )
    assert [tuple(key) for key in reference.keys_of(path)] == [
        ("name", "some", "text", ""),
        ("rate", "1.0e-3", "number", "Hz, 'a # b' is no comment of the second line"),
        ("empty", "null", "–", ""),
        ("group", "", "group", "of three"),
        ("group.text", '"x # y"', "text", "above; behind"),
        ("group.flag", "true", "true, false", ""),
        ("several", "[1, 2]", "list", ""),
    ]
    assert reference.head_of(path) == "What the file is."


def test_every_key_of_every_choice_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        if path.parent.name in reference.GROUPS_LEFT_OUT:
            continue
        part = page.partition(f"### {path.parent.name}={path.stem}\n")[2].partition("\n###")[0]
        keys = {key for key in yaml.safe_load(path.read_text()) or {} if key not in {"defaults", "hydra", "name"}}
        assert all(f"| `{key}" in part for key in keys - {"_target_"}), path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason='the site needs pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(
        words, check=False, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_names_every_page(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "README" or (site / page.stem / "index.html").exists(), page
    nav = (ROOT / "mkdocs.yml").read_text()
    assert all(page.name in nav for page in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_reads_every_page_and_asks_no_other_server(site: Path, address: str) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 360, "height": 740})
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for folder in sorted(path.parent for path in site.glob("*/index.html")):
            page.goto(f"{address}/{folder.name}/", wait_until="load")
            assert page.locator("h1").count() == 1, folder.name
        page.goto(address)
        page.get_by_role("link", name="requests.md").first.click()
        assert page.locator("h1").inner_text().startswith("Requests")
        browser.close()
    assert not errors, errors
    assert all(url.startswith(address) for url in asked), [url for url in asked if not url.startswith(address)]
