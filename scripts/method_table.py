r"""Make the table of docs/methods.md: every method on every kind of request, with original and oracle.

    python scripts/method_table.py                                   espeak, all labels and requests, seeds 0, 1, 2
    python scripts/method_table.py --methods scrub salun --seeds 0   a part of it
    python scripts/method_table.py --datasets espeak arabic_speech_commands --one-seed arabic_speech_commands \
        --set arabic_speech_commands:dataset.root=FOLDER --jobs 2    two corpora, one seed for most methods

The pipeline keeps what it makes in the output folder, so the same command continues an interrupted one. The table is
written between two marks in the page. Its unrounded numbers, of every metric, go to a file of the same name with the
ending .csv in the output folder. A failed run is listed with its reason; the others continue.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from composed import ROOT, config_of, told

import speechforget.cli.main  # sets what must be set before torch is loaded
from speechforget.cli.messages import explain
from speechforget.errors import NotApplicable, UserError, nearest
from speechforget.pipeline import Pipeline
from speechforget.progress import bar
from speechforget.report.collect import collect
from speechforget.report.layout import comma_separated, markdown
from speechforget.report.summary import summarize
from speechforget.report.table import Row, Table
from speechforget.store import Store, commit, write_text

logger = logging.getLogger(__name__)

PAPER = ("gradient_ascent", "random_label", "bad_teaching", "scrub", "salun")  # Cheng & Amiri, Interspeech 2025
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
BEGIN, END = "<!-- table of methods: begin -->", "<!-- table of methods: end -->"
DONE, NOT_APPLICABLE, FAILED = "done", "not applicable", "failed"
Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class Job:
    """Describe one comparison, or one model that several share (`only` among the overrides).

    cell: dataset, label, kind of request and method.
    """

    overrides: tuple[str, ...]
    cell: Cell


@dataclass(frozen=True)
class Outcome:
    """Say how a job ended: done (text: its result's folder), not applicable or failed (text: the reason)."""

    job: Job
    state: str
    text: str


def jobs_of(arguments: argparse.Namespace) -> Iterator[Job]:
    """List the comparisons of the table."""
    for dataset, label, task, method in itertools.product(
        arguments.datasets, arguments.labels, arguments.tasks, arguments.methods
    ):
        few = dataset in arguments.one_seed and method not in PAPER
        for seed in arguments.seeds[:1] if few else arguments.seeds:
            named = [
                f"dataset={dataset}",
                f"dataset.label={label}",
                f"task={task}",
                f"method={method}",
                f"seed={seed}",
                f"task.seed={seed}",
            ]
            yield Job(("logger=none", *named, *set_for(arguments.set, dataset)), (dataset, label, task, method))


def set_for(settings: Sequence[str], dataset: str) -> list[str]:
    """Choose the overrides of --set for all datasets and for this one."""
    chosen = []
    for setting in settings:
        head, colon, rest = setting.partition(":")
        aimed = bool(colon) and "=" not in head
        if not aimed or head == dataset:
            chosen.append(rest if aimed else setting)
    return chosen


def shared_of(jobs: Sequence[Job]) -> list[Job]:
    """List the originals and oracles of the jobs, each once, so that no process waits for another one."""
    found: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        plain = [word for word in job.overrides if not word.startswith("method")]
        of_original = [word for word in plain if not word.startswith("task")]
        for stage, words in (("original", of_original), ("oracle", plain)):
            found.setdefault((stage, *words), Job((*words, f"only={stage}"), (*job.cell[:3], stage)))
    return sorted(found.values(), key=lambda job: "only=oracle" in job.overrides)


def perform(job: Job) -> Outcome:
    """Make or find the result of one job; errors become outcomes."""
    try:
        config = config_of(job.overrides)
        pipeline = Pipeline(config, Store.of(config))
        artefact = pipeline.result() if config["only"] is None else pipeline.train(config["only"])
        return Outcome(job, DONE, artefact.folder.name)
    except NotApplicable as error:
        return Outcome(job, NOT_APPLICABLE, str(error))
    except Exception as error:
        reason = explain(error)
        if reason is None:
            logger.exception("%s", " ".join(job.overrides))
        return Outcome(job, FAILED, reason or f"{type(error).__name__}: {error}")


def perform_all(jobs: Sequence[Job], processes: int, description: str) -> list[Outcome]:
    """Run the jobs in this process or in several; give the outcomes in order."""
    with bar(total=len(jobs), description=description, unit="run") as progress:

        def note(outcome: Outcome) -> Outcome:
            progress.update(1)
            return outcome

        return [note(perform(job)) for job in jobs] if processes == 1 else in_processes(jobs, processes, note)


def in_processes(jobs: Sequence[Job], processes: int, note: Callable[[Outcome], Outcome]) -> list[Outcome]:
    """Run the jobs in several processes. After one is killed, run each unfinished job in a process of its own."""
    outcomes: dict[Job, Outcome] = {}
    with new_pool(processes) as pool:
        waiting: dict[Future[Outcome], Job] = {pool.submit(perform, job): job for job in jobs}
        for future in as_completed(waiting):
            if not isinstance(future.exception(), BrokenProcessPool):
                outcomes[waiting[future]] = note(future.result())
    for job in jobs:
        if job not in outcomes:
            with new_pool(1) as pool:
                future = pool.submit(perform, job)
                killed = isinstance(future.exception(), BrokenProcessPool)
                outcomes[job] = note(
                    Outcome(job, FAILED, "Its process was killed (out of memory?).") if killed else future.result()
                )
    return [outcomes[job] for job in jobs]


def new_pool(processes: int) -> ProcessPoolExecutor:
    """Make a pool of spawned processes: a process that has loaded torch must not be forked."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), logging.basicConfig)


def tables_of(outcomes: Sequence[Outcome], output: Path) -> list[Table]:
    """Make the report's tables of these runs, with rows for methods that are not applicable or failed."""
    folders = {outcome.text for outcome in outcomes if outcome.state == DONE}
    if not folders:
        return []
    frame = collect(output)
    tables = summarize(frame[[Path(folder).name in folders for folder in frame["folder"]]])
    for table in tables:
        for block in table.blocks:
            kind = block.title.split()[0]
            cells = {
                outcome.job.cell[3]: outcome
                for outcome in outcomes
                if outcome.job.cell[:3] == (table.dataset, table.label, kind)
            }
            rows = {row.name for row in block.rows}
            for method, outcome in sorted(cells.items()):
                if outcome.state != DONE and method not in rows:
                    block.rows.append(Row(f"{method}: {outcome.state}", "unlearned", 0, {}))
            block.rows.sort(
                key=lambda row: (
                    row.artefact == "unlearned",
                    row.artefact == "unlearned" and row.name != "none",
                    _sort_name(row),
                )
            )
    return tables


def _sort_name(row: Row) -> str:
    return {"original": "0", "oracle": "1"}.get(row.artefact, row.name)


def text_of(tables: Sequence[Table], outcomes: Sequence[Outcome], command: str) -> str:
    """Write the text between the two marks."""
    failed = [f"- {' '.join(outcome.job.cell)}: {outcome.text}" for outcome in outcomes if outcome.state == FAILED]
    missing = ["**Not in the table, as they failed:**", "", *dict.fromkeys(failed), ""] if failed else []
    return "\n".join([f"Made by `{command}` at commit {commit()}.", "", markdown(tables), *missing])


def read_page(page: Path) -> str:
    """Read the page. Raises UserError unless it has the two marks in order."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(
            f"{page} must hold the lines '{BEGIN}' and, below it, '{END}', once each: "
            "the table is written between them."
        )
    return text


def check_names(arguments: argparse.Namespace) -> None:
    """Check the names of methods and corpora. Raises UserError."""
    corpora = [path.stem for path in (ROOT / "conf" / "dataset").glob("*.yaml")]
    known = {"methods": METHODS, "datasets": corpora, "one_seed": corpora}
    for group, names in known.items():
        for name in getattr(arguments, group):
            if name not in names:
                raise UserError(
                    f"There is no {'method' if group == 'methods' else 'dataset'}={name}: {nearest(name, names)}"
                )


def make(arguments: argparse.Namespace, command: str) -> int:
    """Make what is missing, write page and CSV, and give the number of failed runs."""
    check_names(arguments)
    read_page(arguments.page)
    jobs = list(jobs_of(arguments))
    output = Path(config_of(jobs[0].overrides)["output"])
    if arguments.jobs > 1:
        perform_all(shared_of(jobs), arguments.jobs, "originals and oracles")
    outcomes = perform_all(jobs, arguments.jobs, "runs")
    tables = tables_of(outcomes, output)
    page = read_page(arguments.page)  # others may have written while this ran
    head, tail = page.partition(BEGIN)[0], page.partition(END)[2]
    write_text(arguments.page, f"{head}{BEGIN}\n{text_of(tables, outcomes, command)}\n{END}{tail}")
    numbers = output / arguments.page.with_suffix(".csv").name
    write_text(numbers, comma_separated(tables))
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in (DONE, NOT_APPLICABLE, FAILED)}
    print(f"Written: {arguments.page} and {numbers}; runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    for outcome in outcomes:
        if outcome.state == FAILED:
            print(f"failed: {' '.join(outcome.job.overrides)}: {outcome.text}", file=sys.stderr)
    return counts[FAILED]


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["espeak"], help="names in conf/dataset (default: espeak)")
    parser.add_argument(
        "--labels", nargs="+", default=["word", "speaker"], help="what classifiers tell apart (default: word speaker)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["sample", "class"],
        choices=["sample", "class"],
        help="kinds of request (default: both)",
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, help="names in conf/method (default: all)")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[0, 1, 2],
        help="of training and request: 0,1,2",
    )
    parser.add_argument(
        "--one-seed",
        nargs="+",
        default=[],
        metavar="DATASET",
        help=f"datasets on which the first seed is enough, but for {', '.join(PAPER[:-1])} and {PAPER[-1]}",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="overrides as for run.py; DATASET:NAME=VALUE for one dataset alone",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that work at the same time (default: 1)")
    parser.add_argument(
        "--page",
        type=Path,
        default=ROOT / "docs" / "methods.md",
        help="where the table goes (default: docs/methods.md)",
    )
    return parser.parse_args(words)


def command_of(arguments: argparse.Namespace) -> str:
    """Write the command for publication, with every choice that changes its numbers."""
    words = [
        "python scripts/method_table.py",
        "--datasets",
        *arguments.datasets,
        "--labels",
        *arguments.labels,
        "--tasks",
        *arguments.tasks,
    ]
    words += [] if arguments.methods == METHODS else ["--methods", *arguments.methods]
    words += ["--seeds", ",".join(map(str, arguments.seeds))]
    words += ["--one-seed", *arguments.one_seed] if arguments.one_seed else []
    said = [word for setting in arguments.set if (word := _told(setting))]
    return " ".join([*words, *(["--set", *map(shlex.quote, said)] if said else [])])


def _told(setting: str) -> str:
    head, colon, rest = setting.partition(":")
    aimed = bool(colon) and "=" not in head
    word = told([rest if aimed else setting])
    return f"{head}:{word}" if aimed and word else word


def main() -> None:
    """Run the command line."""
    arguments = parsed()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if make(arguments, command_of(arguments)):
        raise SystemExit(1)


if __name__ == "__main__":
    speechforget.cli.main.guard(main)
