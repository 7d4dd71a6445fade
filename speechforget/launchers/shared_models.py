"""The first wave: each original and oracle that a sweep needs and nobody has built yet, once, before the jobs that share it."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from speechforget.cli.main import explain
from speechforget.errors import NotApplicable
from speechforget.launchers.jobs import Job, Work

STAGES = ("original", "oracle")


def first_wave(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that build what `jobs` share; none for a single job. Jobs whose method is not defined for their request end here.

    Says of which jobs it cannot tell what they share, and why; they are handed in all the same.
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
                unknown[sentence] += (
                    1  # a mistake, perhaps of this machine alone, which need not see the recordings: the job itself will say
                )
                continue
            for one in planned:
                if one.stage in STAGES and not one.exists and one.identity not in wave and job.config["only"] is None:
                    wave[one.identity] = _only(job, one.stage, len(wave))
    if len(jobs) < 2:
        return []
    for sentence, number in unknown.items():
        print(
            f"No first wave for {number} of {len(jobs)} jobs, whose models cannot be told from here: {sentence}",
            file=sys.stderr,
            flush=True,
        )
    return list(wave.values())


def _only(job: Job, stage: str, number: int) -> Job:
    work = job.work
    overrides = [*work.overrides, f"only={stage}"]
    return Job(Work(work.launcher, overrides, number, work.outcomes / "first"), job.config, stage)
