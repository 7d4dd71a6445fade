"""How long things take, as ratios that mean the same on every machine.

    python scripts/bench.py sweep               2 requests x all methods x 2 seeds on espeak; about a quarter of an hour on two quiet cores
    python scripts/bench.py sweep --quick       the same in small: its figures mean nothing
    python scripts/bench.py train               training and scoring, beside the bare limit and the usual ways; about ten minutes
    python scripts/bench.py methods             each method, beside its sample passes at the speed of a bare training step; some minutes
    python scripts/bench.py memory              100,000 utterances: anonymous memory; needs 7 GB of disk
    python scripts/bench.py startup             from the command to the end of the first training step

The sweep is timed as a user runs it, beside (a) its parts: every original, oracle, unlearned model, score table and result built once, in one
process, counting the building alone, and (b) naive runs: each trains an original and an oracle of its own. Then, what the framework adds: to a
stage that is there, to a run that is there, and to a job that starts.
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

from speechforget.cli.main import guard  # sets what must be set before torch is loaded
from speechforget.pipeline import Pipeline
from speechforget.store import Artefact, Store

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
QUICK = ["experiment=smoke"]


class Timed:
    """A store that counts the seconds of the building alone, without keys, locks and records."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.seconds: dict[str, float] = defaultdict(float)
        self.count: dict[str, int] = defaultdict(int)

    def produce(self, stage: str, name: str, inputs: Mapping[str, Any], build: Callable[[Path, str], None]) -> Artefact:
        """See `Store.produce`."""

        def build_timed(folder: Path, key: str) -> None:
            started = time.perf_counter()
            build(folder, key)
            self.seconds[stage] += time.perf_counter() - started
            self.count[stage] += 1

        return self.store.produce(stage, name, inputs, build_timed)


def config_of(*overrides: str) -> dict[str, Any]:
    """The resolved config of one job."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def jobs_of(arguments: argparse.Namespace) -> list[list[str]]:
    """The overrides of each job of the sweep."""
    more = ["logger=none", *(QUICK if arguments.quick else [])]
    return [
        [*more, f"task={task}", f"method={method}", f"seed={seed}"]
        for task in ("sample", "class")
        for method in METHODS
        for seed in range(arguments.seeds)
    ]


def timed(*words: str) -> float:
    """Seconds of `python run.py words`. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    run = subprocess.run([sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return time.perf_counter() - started


def parts(jobs: list[list[str]], place: Path, cache: Path) -> dict[str, Any]:
    """Builds everything once in this process; seconds of the building alone, by stage."""
    import lightning.pytorch  # noqa: F401  (loading it is no part of the building)
    import matplotlib.pyplot  # noqa: F401

    store = Timed(place)
    for overrides in jobs:
        Pipeline(config_of(*overrides, f"output={place}", f"cache={cache}"), store).result()
    return {"seconds": dict(store.seconds), "count": dict(store.count)}


def cached(job: list[str], output: Path) -> dict[str, float]:
    """What a run costs where everything exists, in a process that has loaded what it needs: of the whole run, and of each of its stages."""
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
    """Runs a part of this script in a process of its own; what it prints last is JSON."""
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return json.loads(run.stdout.splitlines()[-1])


def sweep(arguments: argparse.Namespace) -> None:
    """Prints the comparison."""
    jobs = jobs_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cache = f"cache={place / 'cache'}"
        timed(
            *jobs[0], f"output={place / 'first'}", cache, "only=original"
        )  # speaks and decodes the corpus, which all have in common
        flags = [*(["--quick"] if arguments.quick else []), f"--seeds={arguments.seeds}", f"--place={place}"]
        built = inner("parts", *flags)
        bare = sum(built["seconds"].values())
        swept = ["-m", "logger=none", *(QUICK if arguments.quick else []), "task=sample,class", "method=glob(*)"]
        whole = timed(*swept, f"seed={','.join(map(str, range(arguments.seeds)))}", f"output={place / 'sweep'}", cache)
        start = timed(*jobs[0], f"output={place / 'sweep'}", cache)
        there = inner("cached", *flags)
        chosen = [job for job in jobs if "task=class" in job and "seed=0" in job][: arguments.naive]
        naive = [timed(*job, f"output={place / 'naive' / str(number)}", cache) for number, job in enumerate(chosen)]
    print(f"Sweep of {len(jobs)} jobs: " + ", ".join(f"{count} {stage}" for stage, count in built["count"].items()))
    for stage, seconds in built["seconds"].items():
        print(f"  {stage:10} {seconds:8.1f} s")
    print(f"(a) its parts, perfectly shared          {bare:8.1f} s    1.00")
    print(f"    the sweep, with one command          {whole:8.1f} s    {whole / bare:.2f}")
    scaled = sum(naive) / len(naive) * len(jobs)
    print(f"(b) naive runs ({len(naive)} run, scaled to {len(jobs)})      {scaled:8.1f} s    {scaled / bare:.2f}")
    print(
        f"The framework adds {1000 * there['stage']:.0f} ms to a stage that is there, {there['run']:.2f} s to a run in which everything is there,"
    )
    print(
        f"of which {there['corpus']:.2f} s see whether the corpus has changed; and {(whole - bare - start) / len(jobs):.2f} s a job to this sweep."
    )
    print(
        f"A job pays {start:.2f} s to start and find everything there, {there['torch']:.2f} s more to load torch and Lightning when there is work."
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        choices=["sweep", "train", "methods", "memory", "startup", "parts", "cached"],
        help="see above; parts and cached belong to sweep",
    )
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--naive",
        type=int,
        default=len(METHODS),
        help="how many naive runs are made; the others are taken to be like them",
    )
    parser.add_argument("--models", nargs="*", help="train: only those models whose name holds one of these words")
    parser.add_argument("--methods", nargs="*", help="methods: only these")
    parser.add_argument(
        "--epochs",
        type=int,
        default=2,
        help="methods: at most so many; what a run costs once weighs less in a longer one",
    )
    parser.add_argument("--trainer", default="cpu", help="train, methods: cpu or gpu")
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments, arguments.overrides = parser.parse_known_args()
    if arguments.what == "sweep":
        sweep(arguments)
    elif arguments.what == "train":
        from bench_training import train

        train(arguments)
    elif arguments.what in {"memory", "startup"}:
        from bench_process import COMMANDS

        COMMANDS[arguments.what](arguments)
    elif arguments.what == "methods":
        from bench_methods import methods

        guard(lambda: methods(arguments))
    elif arguments.what == "parts":
        print(json.dumps(parts(jobs_of(arguments), arguments.place / "parts", arguments.place / "cache")))
    else:
        found = cached([*jobs_of(arguments)[0], f"cache={arguments.place / 'cache'}"], arguments.place / "sweep")
        started = time.perf_counter()
        import lightning.pytorch  # noqa: F401

        print(json.dumps({**found, "torch": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
