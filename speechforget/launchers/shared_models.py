"""Plan the first wave of a sweep: train each missing original and oracle once, before the jobs that share it."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from speechforget.cli.messages import explain
from speechforget.config.evaluation import has_pairs
from speechforget.errors import NotApplicable
from speechforget.launchers.jobs import Job, Work


def first_wave(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs that build the shared models of `jobs`; none for a single job without an audit.

    Jobs with a method that is not defined for their request end here. Jobs that cannot be planned from this machine are
    named with the reason, and submitted all the same.
    """
    from speechforget.cli.plan import Costs, plan

    costs = Costs(Path(jobs[0].config["output"])) if jobs else None
    wave: dict[str, Job] = {}
    unknown: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for job in jobs:
            try:
                planned = plan(job.config, costs, Path(scratch))
            except NotApplicable as error:
                job.end("not applicable", str(error))
                continue
            except Exception as error:
                sentence = explain(error)
                if sentence is None:
                    raise
                unknown[sentence] += 1  # may be true of this machine alone, which need not see the recordings
                continue
            for one in planned:
                if one.only and not one.exists and one.identity not in wave and job.config["only"] is None:
                    wave[one.identity] = _only(job, one.only, len(wave))
    if len(jobs) < 2 and not any(has_pairs(job.config) for job in jobs):
        return []
    for sentence, number in unknown.items():
        line = f"No first wave for {number} of {len(jobs)} jobs, which cannot be planned on this machine: {sentence}"
        print(line, file=sys.stderr, flush=True)
    return list(wave.values())


def _only(job: Job, model: str, number: int) -> Job:
    work = job.work
    overrides = [*work.overrides, f"only={model}"]
    return Job(Work(work.launcher, overrides, number, work.outcomes / "first"), job.config, model)
