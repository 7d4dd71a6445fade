"""Measure how long things take, as ratios that compare across machines.

    python scripts/bench.py sweep          2 requests x all methods x 2 seeds on espeak; about 15 minutes on two cores
    python scripts/bench.py sweep --quick  the same at a small size; its figures mean nothing
    python scripts/bench.py train          training and scoring, against the bare limit and usual ways; 10 minutes
    python scripts/bench.py stacked        8 models trained at once, against the same one by one; a few minutes
    python scripts/bench.py methods        each method, against its sample passes at bare speed; a few minutes
    python scripts/bench.py memory         100,000 utterances: anonymous memory; needs 7 GB of disk
    python scripts/bench.py startup        from the command to the end of the first training step

The sweep is timed as a user runs it and compared with (a) its parts and (b) naive runs. The parts are every original,
oracle, unlearned model, score table and result, built once in one process; only building counts. Each naive run trains
its own original and oracle. The last lines give the framework's overhead: of a stage that exists, of a run that exists,
and of starting a job.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from speechforget.cli.main import guard  # sets process options that must precede loading torch
from speechforget.pipeline import Pipeline
from speechforget.store import Artefact, OneByOne, Store

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
QUICK = ["experiment=smoke"]


class Timed(OneByOne):
    """Count only the seconds of building in a store, without keys, locks and records."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.seconds: dict[str, float] = defaultdict(float)
        self.count: dict[str, int] = defaultdict(int)

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """Produce as `Store.produce` does, and time the build."""

        def build_timed(folder: Path, key: str) -> None:
            started = time.perf_counter()
            build(folder, key)
            self.seconds[stage] += time.perf_counter() - started
            self.count[stage] += 1

        return self.store.produce(stage, name, inputs, build_timed)


def config_of(*overrides: str) -> dict[str, Any]:
    """Resolve the config of one job."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def jobs_of(arguments: argparse.Namespace) -> list[list[str]]:
    """List the overrides of each job of the sweep."""
    more = ["logger=none", *(QUICK if arguments.quick else [])]
    return [
        [*more, f"task={task}", f"method={method}", f"seed={seed}"]
        for task in ("sample", "class")
        for method in METHODS
        for seed in range(arguments.seeds)
    ]


def timed(*words: str) -> float:
    """Time `python run.py words` in seconds; raise RuntimeError if it fails."""
    started = time.perf_counter()
    run = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return time.perf_counter() - started


def parts(jobs: list[list[str]], output: Path, cache: Path) -> dict[str, Any]:
    """Build everything once in this process, and time only the building, by stage."""
    import lightning.pytorch  # noqa: F401  (its loading time must not count)
    import matplotlib.pyplot  # noqa: F401

    store = Timed(output)
    for overrides in jobs:
        Pipeline(config_of(*overrides, f"output={output}", f"cache={cache}"), store).result()
    return {"seconds": dict(store.seconds), "count": dict(store.count)}


def cached(job: list[str], output: Path) -> dict[str, float]:
    """Time a run in which everything exists, in a process that has loaded what it needs.

    Returns the seconds of the whole run, of the corpus check, and of each stage.
    """
    config = config_of(*job, f"output={output}")
    Pipeline(config, Store(output)).result()
    started = time.perf_counter()
    pipeline = Pipeline(config, Store(output))
    pipeline.data  # noqa: B018
    corpus = time.perf_counter() - started
    result = pipeline.result()
    stages = (time.perf_counter() - started - corpus) / 7
    pipeline.show(result)
    return {"run": time.perf_counter() - started, "corpus": corpus, "stage": stages}


def inner(*words: str) -> Any:
    """Run a part of this script in a process of its own, and parse its last line as JSON."""
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return json.loads(run.stdout.splitlines()[-1])


def sweep(arguments: argparse.Namespace) -> None:
    """Time the sweep, its parts and naive runs, and print the comparison."""
    jobs = jobs_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache = f"cache={root / 'cache'}"
        # Synthesise and decode the corpus first, because everything timed below shares it.
        timed(*jobs[0], f"output={root / 'first'}", cache, "only=original")
        flags = [*(["--quick"] if arguments.quick else []), f"--seeds={arguments.seeds}", f"--root={root}"]
        built = inner("parts", *flags)
        bare = sum(built["seconds"].values())
        swept = ["-m", "logger=none", *(QUICK if arguments.quick else []), "task=sample,class", "method=glob(*)"]
        whole = timed(*swept, f"seed={','.join(map(str, range(arguments.seeds)))}", f"output={root / 'sweep'}", cache)
        start = timed(*jobs[0], f"output={root / 'sweep'}", cache)
        there = inner("cached", *flags)
        chosen = [job for job in jobs if "task=class" in job and "seed=0" in job][: arguments.naive]
        naive = [timed(*job, f"output={root / 'naive' / str(number)}", cache) for number, job in enumerate(chosen)]
    print(f"Sweep of {len(jobs)} jobs: " + ", ".join(f"{count} {stage}" for stage, count in built["count"].items()))
    for stage, seconds in built["seconds"].items():
        print(f"  {stage:10} {seconds:8.1f} s")
    print(f"(a) its parts, perfectly shared          {bare:8.1f} s    1.00")
    print(f"    the sweep, with one command          {whole:8.1f} s    {whole / bare:.2f}")
    scaled = sum(naive) / len(naive) * len(jobs)
    print(f"(b) naive runs ({len(naive)} run, scaled to {len(jobs)})      {scaled:8.1f} s    {scaled / bare:.2f}")
    print(
        f"The framework adds {1000 * there['stage']:.0f} ms to a stage that exists, "
        f"{there['run']:.2f} s to a run that exists,"
    )
    print(
        f"of which {there['corpus']:.2f} s check whether the corpus has changed, "
        f"and {(whole - bare - start) / len(jobs):.2f} s per job to this sweep."
    )
    print(
        f"A job takes {start:.2f} s to start and find that everything exists, "
        f"and {there['torch']:.2f} s more to load torch and Lightning if it has work."
    )


def main() -> None:
    """Parse the command line and run the chosen benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        choices=["sweep", "train", "stacked", "methods", "memory", "startup", "parts", "cached"],
        help="see above; sweep runs parts and cached itself",
    )
    parser.add_argument("--quick", action="store_true", help="run at a small size, as a test")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--naive",
        type=int,
        default=len(METHODS),
        help="number of naive runs; the time of all others is scaled from them",
    )
    parser.add_argument("--models", nargs="*", help="train: only models with one of these words in their name")
    parser.add_argument("--methods", nargs="*", help="methods: only these")
    parser.add_argument(
        "--epochs",
        type=int,
        default=2,
        help="methods: at most this many; fixed costs weigh less in a longer run",
    )
    parser.add_argument("--trainer", default="cpu", help="train, stacked, methods: cpu or gpu")
    parser.add_argument("--together", type=int, default=8, help="stacked: number of models")
    parser.add_argument("--rounds", type=int, default=3, help="train, stacked, methods: measure so often, in turns")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments, arguments.overrides = parser.parse_known_args()
    if arguments.what == "sweep":
        sweep(arguments)
    elif arguments.what == "train":
        from bench_training import train

        train(arguments)
    elif arguments.what == "stacked":
        from bench_stacked import stacked

        stacked(arguments)
    elif arguments.what in {"memory", "startup"}:
        from bench_process import COMMANDS

        COMMANDS[arguments.what](arguments)
    elif arguments.what == "methods":
        from bench_methods import methods

        guard(lambda: methods(arguments))
    elif arguments.what == "parts":
        print(json.dumps(parts(jobs_of(arguments), arguments.root / "parts", arguments.root / "cache")))
    else:
        found = cached([*jobs_of(arguments)[0], f"cache={arguments.root / 'cache'}"], arguments.root / "sweep")
        started = time.perf_counter()
        import lightning.pytorch  # noqa: F401

        print(json.dumps({**found, "torch": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
