"""`speechforget diff A B`: show what differs between two records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from speechforget.cli.arguments import run_command
from speechforget.record.canonical import read_record
from speechforget.record.difference import Line, compare_records

EPILOG = """\
example:
  speechforget diff before/report.html after/report.html

A and B are pages or JSON files of records. Compared are the results, their settings, numbers (beyond rounding) and
verdicts, the policy, and the jobs without a result. The exit code is 0 if nothing differs, and 1 if something does."""
HEADER = Line("result", "what", "A", "B")
MOST, WIDEST = 40, 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if the records differ, or after a user mistake, which one sentence explains."""
    parser = argparse.ArgumentParser(
        "speechforget diff", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("one", type=Path, metavar="A", help="report.html, or record.json")
    parser.add_argument("other", type=Path, metavar="B", help="another one")
    parser.add_argument("--all", action="store_true", help=f"show every difference, not only the first {MOST}")
    options = parser.parse_args(arguments)
    return run_command(lambda: diff(options.one, options.other, options.all))


def diff(one: Path, other: Path, whole: bool = False) -> int:
    """Print a table of the differences of two records; return 1 if there are any."""
    lines = compare_records(read_record(one), read_record(other))
    if not lines:
        print("The records agree.")
        return 0
    shown = lines if whole else lines[:MOST]
    print(table(shown))
    if len(shown) < len(lines):
        print(f"... and {len(lines) - len(shown)} more: --all shows them.")
    print(f"{len(lines)} difference{'' if len(lines) == 1 else 's'}.")
    return 1


def table(lines: Sequence[Line]) -> str:
    """Format differences in columns; the name of a result stands once."""
    rows = [HEADER, *lines]
    named = [
        row.result if number == 0 or row.result != rows[number - 1].result else "" for number, row in enumerate(rows)
    ]
    cells = [[_cut(cell) for cell in (name, *row[1:])] for name, row in zip(named, rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
