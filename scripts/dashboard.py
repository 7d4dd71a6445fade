"""Build the workspace and the report of a project in W&B, and upload offline runs.

    python scripts/dashboard.py build [FOLDER]          save both in W&B; without a login, write FOLDER/dashboard.json
    python scripts/dashboard.py build [FOLDER] --json   write and check FOLDER/dashboard.json in any case
    python scripts/dashboard.py sync [FOLDER]           upload the offline runs below FOLDER (default: outputs)

Every metric, table and setting that the dashboard names is looked up in the offline runs below FOLDER. `sync` may be
interrupted and repeated: W&B leaves a file beside what is uploaded, and the next call uploads the rest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tracking_keys import described, plain
from wandb_files import offline_runs, read_run

from speechforget.cli.arguments import run_command
from speechforget.errors import UserError
from speechforget.store.files import explained, write_json
from speechforget.tracking.mirror import refusal
from speechforget.tracking.wandb_settings import api_key, base_url, can_log_in, project_name

SYNC = [sys.executable, "-m", "wandb", "sync"]
STAGES = ("original", "oracle", "unlearned", "result")
AT_ONCE = 20  # runs of one `wandb sync`
MARK = ".synced"  # ending of the file that W&B leaves beside what it has uploaded
FILE = "dashboard.json"
NO_LOGIN = "no W&B key is configured: run `wandb login`, or set WANDB_API_KEY"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("build", "sync"))
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="output folder of the runs")
    parser.add_argument("--project", default="speechforget", help="as logger.project (default: speechforget)")
    parser.add_argument("--entity", help="a W&B team, as logger.entity; the default is the user's own account")
    parser.add_argument("--json", action="store_true", help="build: write the specification, save nothing in W&B")
    parser.add_argument("--unfinished", action="store_true", help="sync: also upload runs that were not ended")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; for a user's mistake print one sentence and return exit code 1."""
    options = _arguments(arguments)
    return run_command(lambda: {"build": build, "sync": sync}[options.command](options))


def build(options: argparse.Namespace) -> int:
    """Save workspace and report in W&B, or write them as JSON; return 1 if they name what no run below logs."""
    try:
        import dashboard_views as views
    except ModuleNotFoundError as error:
        raise UserError(f'The package {error.name} is missing: pip install -e ".[dashboard]".') from None
    project, online = project_name(options.project), can_log_in() and not options.json
    entity = options.entity or (_own_entity() if online else "ENTITY")
    found = views.specification(entity, project)
    problems = list(unknown(set(views.names_in(found)), options.folder))
    for problem in problems:
        print(problem)
    if online:
        views.workspace(entity, project).save()
        views.report(entity, project).save()
    else:
        with explained(options.folder / FILE, "Cannot write to {folder} ({reason}): give the folder of your outputs."):
            write_json(options.folder / FILE, found)
        print(f"Written: {options.folder / FILE}" + ("" if options.json else f" ({NO_LOGIN}, to save it in W&B)"))
    return int(bool(problems))


def _own_entity() -> str:
    import wandb

    return str(wandb.Api().default_entity)


def unknown(names: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield a sentence for each name that the table of keys lacks, or that no offline run below the folder logged.

    What only some runs log, such as audits, may be missing there. Without offline runs the table alone is asked.
    """
    logged, settings = logged_below(folder)
    for name in sorted(plain(names)):
        setting, key = name.removeprefix("config."), described(name.removesuffix("_table"))
        if setting != name:
            if settings and setting not in settings:
                yield f"{setting} is no setting of any run below {folder}."
        elif key is None:
            yield f"{name} is not in the table of keys (scripts/tracking_keys.py)."
        elif logged and not key.needs and name.removesuffix("_table") not in logged:
            yield f"{name} is logged by no run below {folder}."


def logged_below(folder: Path) -> tuple[set[str], set[str]]:
    """Return the keys and the settings of all offline runs of results below a folder."""
    runs = [run for path in offline_runs(folder) if (run := read_run(path)).run.get("job_type") == "result"]
    return set().union(*(plain(run.keys) for run in runs)), set().union(*(run.settings for run in runs))


def sync(options: argparse.Namespace) -> int:
    """Upload what is not uploaded yet, some runs at a time; return 1 if something could not be uploaded."""
    if not options.folder.is_dir():
        raise UserError(f"There is no folder {options.folder}: give the output folder of your runs.")
    runs = offline_runs(options.folder)
    waiting = [path for path in runs if not uploaded(path)]
    ended = [path for path in waiting if options.unfinished or read_run(path).ended]
    print(f"{len(runs)} offline runs: {len(runs) - len(waiting)} are uploaded, {len(ended)} can be.")
    if len(ended) < len(waiting):
        print(
            f"{len(waiting) - len(ended)} were not ended: they run still, or were killed (--unfinished uploads them)."
        )
    why = refused() if ended else None
    if why:
        raise UserError(f"Nothing is uploaded, because {why}.")
    for part in parts(ended):
        upload(part, options)
        print(f"{sum(map(uploaded, ended))} of {len(ended)} uploaded.")
        if not any(map(uploaded, part)):
            break  # the rest would fail, too
    left = [path for path in ended if not uploaded(path)]
    for path in left:
        print(f"Not uploaded: {path.parent}")
    if left:
        print(f"Repeat the command to upload the other {len(left)}.")
    return int(bool(left))


def refused() -> str | None:
    """Say why W&B takes no runs now; None if it does."""
    return refusal(base_url(), api_key()) if can_log_in() else NO_LOGIN


def parts(runs: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield some runs at a time, originals first: who uses a model must not reach W&B before who made it."""
    for stage in STAGES:
        own = [path for path in runs if path.parents[3].name == stage]
        yield from (own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE))


def uploaded(path: Path) -> bool:
    """Return whether W&B noted that a file is uploaded, and nothing was written to it since."""
    mark = path.with_name(path.name + MARK)
    return mark.exists() and mark.stat().st_mtime_ns >= path.stat().st_mtime_ns


def upload(runs: Sequence[Path], options: argparse.Namespace) -> None:
    """Call `wandb sync` for some runs. Its exit code says nothing; only its marks count."""
    words = ["--entity", options.entity] if options.entity else []
    subprocess.run([*SYNC, *words, *(str(path.parent) for path in runs)], env=_online(os.environ), check=False)


def _online(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what keeps W&B offline."""
    return {name: value for name, value in environment.items() if name not in {"WANDB_MODE", "WANDB_DISABLED"}}


if __name__ == "__main__":
    sys.exit(main())
