"""What surrounds a run on the command line: errors as sentences, and a sweep whose jobs are accounted for."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from speechforget.cli.arguments import at_home
from speechforget.config.validate import check, check_places
from speechforget.distributed.environment import place
from speechforget.distributed.group import check_place, close_team, open_team
from speechforget.distributed.rendezvous import end_with, serve
from speechforget.errors import NotApplicable, RankError, UserError, nearest
from speechforget.store import make_folder, write_json
from speechforget.store.files import explained
from speechforget.terminal import print_anywhere
from speechforget.training.runtime import settle

if TYPE_CHECKING:
    from speechforget.cli.plan import Planned

settle()

PARENT = "SPEECHFORGET_PARENT"  # the process that the user started, for jobs that a launcher starts
SWEEP = "SPEECHFORGET_SWEEP"  # names the folder where the jobs of a sweep leave their outcomes; processes that a launcher starts inherit it


def guard(main: Callable[[], Any]) -> None:
    """Runs Hydra's main. A user's mistake ends in one sentence and exit code 1; a sweep with failed jobs lists them and ends in 1, too."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of being printed
    os.environ.pop(SWEEP, None)
    print_anywhere()
    sys.argv[1:] = at_home(sys.argv[1:])
    code = 0
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where this one stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        code = 1
        if place().rank == 0:  # the other tasks of a job see the same mistakes
            complain(error)
    finally:
        close_team()
    if SWEEP in os.environ and summarise(Path(os.environ[SWEEP])):
        code = 1
    sys.exit(code)


def complain(error: BaseException) -> None:
    """Prints the sentence for a user's mistake, and the stack for one of ours."""
    sentence = explain(error)
    if sentence is None:
        traceback.print_exception(error)
    else:
        print(f"Error: {sentence}", file=sys.stderr, flush=True)


def job(config: DictConfig) -> float:
    """One job: a run alone raises what goes wrong; within a sweep it is recorded, and the other jobs go on.

    Gives the objective. Of a job of a sweep that failed it is infinite, so that a search goes on elsewhere: Hydra's Optuna sweeper ends at nan.
    """
    print_anywhere()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("matplotlib", "fsspec", "git", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if place().rank > 0:
        return _work_for_task_0(config)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _job_of_a_sweep(config)
    try:
        if config.plan:
            from speechforget.cli.plan import describe

            print(describe([_plan(config)]))
            return float("nan")
        return _run(config)[0]
    except Exception as error:  # Hydra would print more than the user needs
        complain(error)
        raise SystemExit(1) from None


def _job_of_a_sweep(config: DictConfig) -> float:
    if "joblib" in HydraConfig.get().launcher._target_.lower():
        end_with(int(os.environ[PARENT]))
    outcome: dict[str, Any] = {
        "overrides": list(HydraConfig.get().overrides.task),
        "outcome": "done",
        "objective": None,
        "reason": "",
    }
    if not config.plan:
        print(f"\n[{HydraConfig.get().job.num}] {' '.join(outcome['overrides'])}", flush=True)
    objective = float("nan")
    try:
        if config.plan:
            outcome |= {"outcome": "planned", "plan": [asdict(planned) for planned in _plan(config)]}
        else:
            objective, outcome["flags"] = _run(config)
        outcome["objective"] = None if math.isnan(objective) else objective
    except NotApplicable as error:
        outcome |= {"outcome": "not applicable", "reason": str(error)}
        objective = math.inf
    except Exception as error:
        objective = math.inf
        reason = explain(error)
        if reason is None:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        outcome |= {"outcome": "failed", "reason": reason}
    if outcome["reason"]:
        print(f"{outcome['outcome']}: {outcome['reason']}", flush=True)
    with explained(Path(os.environ[SWEEP])):
        write_json(Path(os.environ[SWEEP]) / f"{HydraConfig.get().job.num}.json", outcome)
    return objective


def _checked(config: DictConfig) -> dict[str, Any]:
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    return resolved


def _plan(config: DictConfig) -> list[Planned]:
    from speechforget.cli.plan import plan

    return plan(_checked(config))


def _run(config: DictConfig) -> tuple[float, list[str]]:
    from speechforget.pipeline import judged

    resolved = _checked(config)
    mine = place()
    check_place(resolved["trainer"], mine)
    if mine.world > 1:
        open_team(resolved)  # the other tasks are waiting for it, even where there is nothing to do
    return judged(resolved)


def _work_for_task_0(config: DictConfig) -> float:
    """What tasks 1 to n of a job do. Where the job is a whole command line, they do it for all its runs, so the first one never returns."""
    check_places(config)
    serve(config.output, place())
    if "SUBMITIT_EXECUTOR" not in os.environ:
        raise SystemExit(0)
    return float("nan")


class Sweep(Callback):
    """Makes the folder in which the jobs of a sweep leave their outcomes."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """In the process that the user started."""
        if place().world > 1 and "Basic" not in config.hydra.launcher._target_:
            if place().rank == 0:
                complain(
                    UserError(
                        "Several tasks of one job can only run a sweep one after another: set launch=local, or start one process."
                    )
                )
            raise SystemExit(1)  # any other exception Hydra would make a warning of
        if place().rank > 0:
            return
        try:
            check_places(config)
        except UserError as error:
            complain(error)
            raise SystemExit(1) from None
        folder = _sweep_folder(config)
        os.environ[SWEEP] = str(folder)
        os.environ[PARENT] = str(os.getpid())
        with read_write(config):
            config.hydra.sweep.dir = str(folder)  # what Hydra and the launchers write of a sweep is of this sweep alone


def _sweep_folder(config: DictConfig) -> Path:
    folder = Path(config.output).absolute() / "sweeps" / uuid.uuid4().hex[:12]
    if not config.plan:
        with contextlib.suppress(UserError):  # what exists can be compared without writing; jobs say what they miss
            make_folder(folder)
            return folder
    folder = Path(tempfile.mkdtemp(prefix="speechforget-sweep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def summarise(folder: Path) -> int:
    """Prints one line for each job of a sweep and gives the number that failed; all of them where no job was applicable."""
    from speechforget.cli.plan import Planned, describe

    outcomes = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
    ]
    if not outcomes:
        return 0
    if plans := [[Planned(**planned) for planned in outcome["plan"]] for outcome in outcomes if "plan" in outcome]:
        print(f"\n{describe(plans)}")
    if len(plans) < len(outcomes):
        print(f"\nSweep: {len(outcomes)} jobs")
    shared = set.intersection(*(set(outcome["overrides"]) for outcome in outcomes)) if len(outcomes) > 1 else set()
    for outcome in outcomes:
        outcome["overrides"] = [override for override in outcome["overrides"] if override not in shared]
        if "plan" in outcome:
            continue
        figure = "" if outcome["objective"] is None else f"  objective {outcome['objective']:.4f}"
        print(
            f"  {outcome['outcome']:15} {' '.join(outcome['overrides'])}{figure}{''.join(f'  {flag}' for flag in outcome.get('flags', ()))}"
        )
    reasons: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome["reason"]:
            reasons.setdefault((outcome["outcome"], outcome["reason"]), []).append(" ".join(outcome["overrides"]))
    for (word, reason), jobs in reasons.items():
        others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        print(f"{word}: {jobs[0]}{others}: {reason}", file=sys.stderr)
    failed = sum(outcome["outcome"] in ("failed", "cancelled") for outcome in outcomes)
    if failed:
        print(
            f"{failed} of {len(outcomes)} jobs failed. The same command tries them again and recomputes nothing else.",
            file=sys.stderr,
        )
    if all(outcome["outcome"] == "not applicable" for outcome in outcomes):
        print("No job of the sweep is applicable, so nothing was done.", file=sys.stderr)
        return len(outcomes)
    return failed


def explain(error: BaseException) -> str | None:
    """One sentence for a user's mistake; None for what is ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full: make room, then run the same command again; it goes on where this one stopped."
    if isinstance(error, RankError):
        return f"{error}. What is done is kept: the same command goes on from there."
    if type(error).__name__ == "TerminatedWorkerError":
        return (
            "A job's process was killed (out of memory?): run the same command again; finished jobs are not repeated."
        )
    if isinstance(error, HydraException) and isinstance(
        error.__cause__, (UserError, OSError)
    ):  # it wraps what a corpus's own function raises
        return explain(error.__cause__)
    return _explain_config(error) if isinstance(error, (HydraException, OmegaConfBaseException)) else None


def _explain_config(error: BaseException) -> str:
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' cannot be read: write name=value, in quotes where the value holds spaces or other signs."
    text = " ".join(str(error).split())
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if missing := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        options = re.findall(r"^\t(\S+)$", str(error).partition("Available options in")[2], flags=re.MULTILINE)
        by = (
            "; what samples are chosen by is task.by, as in task=sample task.by=speaker" if missing[1] == "task" else ""
        )
        return f"There is no {missing[1]}={missing[2]}: {nearest(missing[2], options)}{by}"
    if unknown := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        return f"There is no configuration key '{unknown[1]}'{_chosen(unknown[1], cause)}: {nearest(unknown[1], _known_keys(unknown[1], cause))}"
    if absent := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"The configuration refers to '{absent[1]}', which it does not have: see where in what --cfg job prints."
    return text.split(" full_key:")[0]


def _chosen(key: str, cause: BaseException | None) -> str:
    """Which choice lacks the key, as in ' with method=finetune': in a sweep others may have it."""
    group, parent = key.rpartition(".")[0], getattr(cause, "parent_node", None)
    if not group or "." in group or parent is None or not OmegaConf.is_dict(parent):
        return ""
    name = parent.get("name") or parent.get("kind")
    return f" with {group}={name}" if name else ""


def _known_keys(key: str, cause: BaseException | None) -> Iterable[str]:
    """Keys beside the one that was not found; on the top level, config groups too."""
    parent = getattr(cause, "parent_node", None)
    if parent is not None and OmegaConf.is_dict(parent):
        prefix = key.rpartition(".")[0]
        names = [str(name) for name in parent if name != "hydra"]
        return [f"{prefix}.{name}" if prefix else name for name in names]
    conf = Path(sys.argv[0]).resolve().parent / "conf"
    groups = [path.name for path in conf.glob("*") if path.is_dir()]
    return [*groups, "seed", "output", "cache", "plan", "only", "oracle", "original.checkpoint"]
