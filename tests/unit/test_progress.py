"""Progress: bars on terminals, few lines elsewhere."""

from __future__ import annotations

import io

from speechforget import progress


def test_a_short_job_prints_nothing_where_there_is_no_terminal(capsys) -> None:
    assert list(progress.bar(range(1000), description="short")) == list(range(1000))
    assert capsys.readouterr().err == ""


def test_a_long_job_prints_whole_lines_now_and_then(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.bar(total=3, description="long", unit="file") as bar:
        for _ in range(3):
            bar.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all("long" in line and "\r" not in line for line in lines if line)
    assert "3/3" in lines[-1]


def test_a_terminal_shows_the_time_left(monkeypatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    for _ in progress.bar(range(5), description="seen"):
        pass
    assert "seen" in terminal.getvalue()
    assert "<" in terminal.getvalue()
