"""The chart over all results: what a method costs against how far it is from the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from speechforget.report.charts.scene import Chart, nothing, rows
from speechforget.report.table import Row, Table

GAPS = (
    *("accuracy_forget", "accuracy_retain", "accuracy_test", "accuracy_test_forgotten"),
    # Transcripts have these, and no accuracy.
    *("word_error_rate_forget", "word_error_rate_retain", "word_error_rate_test"),
)


def gap_against_cost(tables: Sequence[Table]) -> Chart:
    """Give each row of the tables its mean absolute gap and its passes; mark those that none beats in both.

    passes: of samples, as thousands; they compare across machines. gap: in points, over forget, retain and test.
    """
    found = []
    for table in tables:
        for block in table.blocks:
            points = [
                (row, gap, passes)
                for row in block.rows
                if (gap := _gap(row)) is not None and (passes := _passes(row)) is not None
            ]
            for row, gap, passes in points:
                beaten = any(
                    other_gap <= gap and other <= passes and (other_gap, other) != (gap, passes)
                    for _, other_gap, other in points
                )
                found.append((f"{table.title}: {block.title}", row.name, passes, gap, not beaten))
    columns = ("request", "method", "passes", "gap", "frontier")
    return rows(columns, found) if found else nothing("No result has an oracle and a recorded cost.")


def mean_gap(gaps: Mapping[str, float | None]) -> float | None:
    """Return the mean absolute gap in accuracy (or word error rate) over forget, retain and test, in points.

    None without any gap.

    gaps: metric -> unlearned minus oracle, None where it is missing.
    """
    known = [abs(gap) for name, gap in gaps.items() if name in GAPS and gap is not None]
    return 100 * sum(known) / len(known) if known else None


def _gap(row: Row) -> float | None:
    if row.artefact != "unlearned":
        return None
    return mean_gap({name: found.gap_mean if found.gap_n else None for name, found in row.metrics.items()})


def _passes(row: Row) -> float | None:
    found = row.metrics.get("passes")
    return found.mean / 1000 if found is not None and found.n else None
