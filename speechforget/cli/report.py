"""`speechforget report outputs`: print and write the tables of many runs, and the page with their record."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechforget.cli.arguments import run_command
from speechforget.errors import UserError

if TYPE_CHECKING:
    from speechforget.report.table import Table

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
  told from oracles AUC, CGUM   where a run measured them (speechforget explain cgum)
  seconds                       wall time
  n                             number of runs"""

PAGE = "report.html"
EXAMPLES = """\
examples:
  speechforget report outputs                       print the tables; write report.html, .md, .csv and .tex
  speechforget report outputs --policy policy.yaml  judge the figures by the thresholds of a policy (docs/record.md)
  speechforget report outputs --audio 3fa9          put the forgotten recordings of one result into the page
  speechforget report outputs --gap                 add the signed gap to the oracle beside every value
  speechforget report outputs --format latex        print LaTeX, write nothing

report.html is one file that loads nothing else: verdicts, tables, charts, and the record as JSON. It shows salted
hashes instead of ids; the salt (record_salt) stays with you. report/*.csv are slices of the tables.

report.csv holds every metric of every row, unrounded, for your own plots. Runs with evaluation=audit add a table of
audits; audits.csv holds all their figures. Requests unlearned one after another add a table each, and sequences.csv."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "speechforget report",
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
        help="table (default) also writes files; the other formats are only printed",
    )
    parser.add_argument(
        "--gap", action="store_true", help="add the signed gap to the oracle (value - oracle's value) to every column"
    )
    page = parser.add_argument_group("report.html")
    page.add_argument("--policy", type=Path, help="yaml file of thresholds, each with source and owner")
    page.add_argument("--sign", type=Path, metavar="KEY", help="write report.sig, signed with this private key (PEM)")
    page.add_argument(
        "--audio", metavar="RESULT", help="also put the forgotten recordings of this result into the page"
    )
    page.add_argument("--ids", action="store_true", help="show the ids of recordings and speakers instead of hashes")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; for a user's mistake print one sentence and return exit code 1."""
    options = _arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return run_command(lambda: _report(options))


def _report(options: argparse.Namespace) -> int:
    from speechforget.report.audits import audits_markdown, audits_rows, read_audits
    from speechforget.report.collect import collect
    from speechforget.report.layout import comma_separated, latex, markdown, print_tables
    from speechforget.report.sequences import read_sequences, rows_csv, sequences_markdown
    from speechforget.report.summary import summarize

    folder = options.folder
    tables, audits, turns = summarize(collect(folder)), read_audits(folder), read_sequences(folder)
    audited = "\n".join(part for part in (audits_markdown(audits), sequences_markdown(turns)) if part)
    texts = {
        "markdown": markdown(tables, options.gap) + (f"\n{audited}" if audited else ""),
        "csv": comma_separated(tables),
        "latex": latex(tables, options.gap),
    }
    if options.format != "table":
        print(texts[options.format], end="")
        return 0
    files = {f"report.{ending}": texts[kind] for kind, ending in (("markdown", "md"), ("csv", "csv"), ("latex", "tex"))}
    files |= {"audits.csv": audits_rows(audits)} if audits else {}
    files |= {"sequences.csv": rows_csv(turns)} if turns else {}
    print_tables(tables, options.gap)
    print(audited, end="")
    try:
        _write(folder, {**_page(options, tables), **files}, options.sign)
    except OSError as error:
        advice = "print what you need with --format markdown, csv or latex instead"
        raise UserError(f"Cannot write to {folder} ({error.strerror}): {advice}.") from None
    return 0


def _page(options: argparse.Namespace, tables: Sequence[Table]) -> dict[str, str]:
    """Make the page and the slices of its tables; nothing, with a warning, for results outside of an output folder."""
    from speechforget.page.write import Asked, make_page
    from speechforget.record.folders import Outputs

    if not Outputs(options.folder).results:
        print("No report.html: the results are not in an output folder, so there is no evidence.")
        return {}
    return make_page(options.folder, tables, Asked(options.policy, options.audio, options.ids))


def _write(folder: Path, texts: Mapping[str, str], key: Path | None) -> None:
    """Write all files, sign the page if there is a key, and name what was written."""
    from speechforget.record.sign import sign
    from speechforget.store import write_text

    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, text)
    names = [str(folder / next(iter(texts))), *list(texts)[1:]]
    if key is not None and PAGE in texts:
        names.append(sign(folder / PAGE, key).name)
    print(f"Written: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
