"""One comparison, or one job of a sweep, on the command line: user mistakes end in one sentence and exit code 1."""

from __future__ import annotations

import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from speechforget.cli.arguments import CONF, expand_home, reader_is_gone
from speechforget.cli.messages import complain, explain
from speechforget.cli.sweep import PARENT, SWEEP, Outcome, summarise, write_outcome
from speechforget.config.validate import check, check_folders
from speechforget.distributed.environment import job_rank
from speechforget.distributed.group import check_ranks, close_team, open_team
from speechforget.distributed.rendezvous import end_with, serve
from speechforget.errors import NotApplicable
from speechforget.progress import noted
from speechforget.terminal import print_anywhere
from speechforget.training.runtime import settle

if TYPE_CHECKING:
    from speechforget.cli.plan import Planned

settle()


def compare() -> None:
    """Let Hydra compose the configuration and run its job, or the jobs of its sweep; then exit."""
    guard(hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job))


def guard(main: Callable[[], Any]) -> None:
    """Call `main`, then exit: with code 1 after a user mistake (one sentence) or failed jobs (one line each)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors instead of printing them
    os.environ.pop(SWEEP, None)
    print_anywhere()
    sys.argv[1:] = expand_home(sys.argv[1:])
    code = 0
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes where this one stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        code = 1
        gone = isinstance(error, BrokenPipeError) and reader_is_gone()
        if job_rank().rank == 0 and not gone:  # the other ranks fail with the same error
            complain(error)
    finally:
        close_team()
    if SWEEP in os.environ and summarise(Path(os.environ[SWEEP])):
        code = 1
    sys.exit(code)


def job(config: DictConfig) -> float:
    """Run one job and return its objective; Hydra calls this.

    A job alone exits with code 1 after an error. A failed job of a sweep is recorded, and the other jobs go on. Its
    objective is then infinite; at nan, Hydra's Optuna sweeper would stop.
    """
    print_anywhere()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("matplotlib", "fsspec", "git", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if job_rank().rank > 0:
        return _serve_rank_0(config)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return _job_of_a_sweep(config)
    try:
        if config.plan:
            from speechforget.cli.plan import describe

            print(describe([_plan(config)]))
            return float("nan")
        return _run(config)[0]
    except Exception as error:
        complain(error)
        raise SystemExit(1) from None  # Hydra would print more than the user needs


def _job_of_a_sweep(config: DictConfig) -> float:
    if "joblib" in HydraConfig.get().launcher._target_.lower():
        end_with(int(os.environ[PARENT]))
    words = list(HydraConfig.get().overrides.task)
    outcome: Outcome = {"overrides": words, "outcome": "done", "objective": None, "reason": ""}
    if not config.plan:
        print(f"\n[{HydraConfig.get().job.num}] {' '.join(words)}", flush=True)
    objective = float("nan")
    try:
        if config.plan:
            outcome |= {"outcome": "planned", "plan": [asdict(planned) for planned in _plan(config)]}
        else:
            objective, outcome["flags"] = _run(config)
        outcome["objective"] = None if math.isnan(objective) else objective
    except Exception as error:
        objective = math.inf
        outcome |= _failure(error)
        print(f"{outcome['outcome']}: {outcome['reason']}", flush=True)
    write_outcome(HydraConfig.get().job.num, outcome)
    return objective


def _failure(error: Exception) -> Outcome:
    if isinstance(error, NotApplicable):
        return {"outcome": "not applicable", "reason": str(error)}
    reason = explain(error)
    if reason is None:
        traceback.print_exception(error)
        reason = f"{type(error).__name__}: {error}"
    return {"outcome": "failed", "reason": reason}


def _checked(config: DictConfig) -> dict[str, Any]:
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    return resolved


def _plan(config: DictConfig) -> list[Planned]:
    from speechforget.cli.plan import plan

    return plan(_checked(config))


def _run(config: DictConfig) -> tuple[float, list[str]]:
    resolved = _checked(config)
    from speechforget.pipeline import judged

    mine = job_rank()
    check_ranks(resolved["trainer"], mine)
    if mine.world > 1:
        open_team(resolved)  # the other ranks wait for it, even where everything exists
    with noted(Path(resolved["output"]), " ".join(HydraConfig.get().overrides.task)):
        return judged(resolved)


def _serve_rank_0(config: DictConfig) -> float:
    """Work for rank 0; exit at its end, unless a launcher started this rank for one job alone."""
    check_folders(config)
    serve(config.output, job_rank())
    if "SUBMITIT_EXECUTOR" not in os.environ:
        raise SystemExit(0)
    return float("nan")
