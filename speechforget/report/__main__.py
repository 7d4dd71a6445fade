"""`python -m speechforget.report outputs`: print and write tables of many runs."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from speechforget.errors import UserError
from speechforget.terminal import print_anywhere

DESCRIPTION = """\
Collect the finished runs below a folder into tables: one per dataset, label and model. The layout is that of Tables 1
and 2 of "Speech Unlearning" (Interspeech 2025), with the oracle added. Mean and standard deviation are over runs that
differ only in seeds.

columns:
  test %                        accuracy on test, remaining classes
  test of forgotten classes %   accuracy on test, forgotten classes
  forget %, retain %            accuracy on these training utterances
  judged non-member %           membership attack: share of forget judged non-member; left out if the attack is guessing
  attack accuracy %             accuracy of that attack on held-out recordings
  attack AUC                    AUC of forget against the matched holdout
  seconds                       wall time
  n                             number of runs"""

EXAMPLES = """\
examples:
  python -m speechforget.report outputs                    print the tables; write report.md, report.csv and report.tex
  python -m speechforget.report outputs --gap              add the signed gap to the oracle beside every value
  python -m speechforget.report outputs --format latex     print LaTeX, write nothing

report.csv holds every metric of every row, unrounded, for your own plots. Runs with evaluation=audit add a table of
audits; audits.csv holds all their figures."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m speechforget.report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("outputs"), help="output folder of the runs (default: outputs)"
    )
    formats = ("table", "markdown", "csv", "latex")
    parser.add_argument(
        "--format",
        choices=formats,
        default="table",
        help="table (default) also writes three files; the other formats are only printed",
    )
    parser.add_argument(
        "--gap", action="store_true", help="add the signed gap to the oracle (value - oracle's value) to every column"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; for a user's mistake print one sentence and return exit code 1."""
    print_anywhere()
    options = _arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from speechforget.report.audits import audits_markdown, audits_rows, read_audits
    from speechforget.report.collect import collect
    from speechforget.report.layout import comma_separated, latex, markdown, print_tables
    from speechforget.report.summary import summarize
    from speechforget.store import write_text

    try:
        tables, audits = summarize(collect(options.folder)), read_audits(options.folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    audited = audits_markdown(audits)
    texts = {
        "markdown": markdown(tables, options.gap) + (f"\n{audited}" if audited else ""),
        "csv": comma_separated(tables),
        "latex": latex(tables, options.gap),
    }
    if options.format != "table":
        print(texts[options.format], end="")
        return 0
    print_tables(tables, options.gap)
    print(audited, end="")
    files = {f"report.{ending}": texts[kind] for kind, ending in (("markdown", "md"), ("csv", "csv"), ("latex", "tex"))}
    files |= {"audits.csv": audits_rows(audits)} if audits else {}
    try:
        for name, text in files.items():
            write_text(options.folder / name, text)
    except OSError as error:
        advice = "print what you need with --format markdown, csv or latex instead"
        print(f"Cannot write to {options.folder} ({error.strerror}): {advice}.", file=sys.stderr)
        return 1
    print(f"Written: {', '.join([str(options.folder / 'report.md'), *list(files)[1:]])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
