"""A sweep as a whole: the folder with the outcomes of its jobs, and the table at its end."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from speechforget.cli.messages import complain
from speechforget.config.validate import check_folders
from speechforget.distributed.environment import job_rank
from speechforget.errors import UserError
from speechforget.store import make_folder, write_json
from speechforget.store.files import explained

PARENT = "SPEECHFORGET_PARENT"  # environment: the process that the user started
SWEEP = "SPEECHFORGET_SWEEP"  # environment: the folder of outcomes, inherited by the processes of a launcher

Outcome = dict[str, Any]  # of one job: overrides, outcome, objective, reason; flags or plan


class Sweep(Callback):
    """Create the folder in which the jobs of a sweep write their outcomes; Hydra calls this."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Prepare the sweep in the process that the user started; exit with code 1 after a user mistake."""
        mine = job_rank()
        try:
            if mine.world > 1 and "Basic" not in config.hydra.launcher._target_:
                raise UserError(
                    "Several ranks of one job can only run the jobs of a sweep one after another: "
                    "set launch=local, or start one process."
                )
            if mine.rank > 0:
                return
            check_folders(config)
        except UserError as error:
            if mine.rank == 0:
                complain(error)
            raise SystemExit(1) from None  # Hydra turns any other exception into a warning
        folder = _sweep_folder(config)
        os.environ[SWEEP] = str(folder)
        os.environ[PARENT] = str(os.getpid())
        with read_write(config):
            config.hydra.sweep.dir = str(folder)  # keeps files of Hydra and of launchers apart from other sweeps


def _sweep_folder(config: DictConfig) -> Path:
    folder = Path(config.output).absolute() / "sweeps" / uuid.uuid4().hex[:12]
    if not config.plan:
        with contextlib.suppress(UserError):  # finished results can be compared without writing; jobs report the error
            make_folder(folder)
            return folder
    folder = Path(tempfile.mkdtemp(prefix="speechforget-sweep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write_outcome(number: int, outcome: Mapping[str, Any]) -> None:
    """Write how job `number` of the sweep ended. Raises UserError where the folder cannot be written to."""
    folder = Path(os.environ[SWEEP])
    with explained(folder):
        write_json(folder / f"{number}.json", outcome)


def summarise(folder: Path) -> int:
    """Print one line for each job of a sweep; return how many failed, or their number where no job was applicable."""
    paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
    outcomes = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    if not outcomes:
        return 0
    if len(outcomes) > 1:  # every line names what differs alone
        shared = set.intersection(*(set(outcome["overrides"]) for outcome in outcomes))
        for outcome in outcomes:
            outcome["overrides"] = [override for override in outcome["overrides"] if override not in shared]
    _print_jobs(outcomes)
    _print_reasons(outcomes)
    failed = sum(outcome["outcome"] in ("failed", "cancelled") for outcome in outcomes)
    if failed:
        again = "The same command repeats them and recomputes nothing else."
        print(f"{failed} of {len(outcomes)} jobs failed. {again}", file=sys.stderr)
    if all(outcome["outcome"] == "not applicable" for outcome in outcomes):
        print("No job of the sweep is applicable, so nothing was done.", file=sys.stderr)
        return len(outcomes)
    return failed


def _print_jobs(outcomes: Sequence[Outcome]) -> None:
    from speechforget.cli.plan import Planned, describe

    plans = [[Planned(**planned) for planned in outcome["plan"]] for outcome in outcomes if "plan" in outcome]
    if plans:
        print(f"\n{describe(plans)}")
    if len(plans) < len(outcomes):
        print(f"\nSweep: {len(outcomes)} jobs")
    for outcome in outcomes:
        if "plan" not in outcome:
            objective = [] if outcome["objective"] is None else [f"objective {outcome['objective']:.4f}"]
            words = [f"{outcome['outcome']:15} {' '.join(outcome['overrides'])}", *objective, *outcome.get("flags", ())]
            print(f"  {'  '.join(words)}")


def _print_reasons(outcomes: Sequence[Outcome]) -> None:
    """Print each reason once, with the first of its jobs."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome["reason"]:
            reasons.setdefault((outcome["outcome"], outcome["reason"]), []).append(" ".join(outcome["overrides"]))
    for (word, reason), jobs in reasons.items():
        others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        print(f"{word}: {jobs[0]}{others}: {reason}", file=sys.stderr)
