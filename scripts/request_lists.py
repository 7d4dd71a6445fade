"""Make the published lists of requests of a corpus, one file per seed.

A list holds 1 to 10 percent of the training utterances, nested and balanced.

    python scripts/request_lists.py dataset=espeak                                        into the package
    python scripts/request_lists.py dataset=speech_commands dataset.root=FOLDER dataset.label=speaker
    python scripts/request_lists.py dataset=folder dataset.root=FOLDER task.lists=LISTS   into a folder of yours

The overrides are those of run.py. This reads a list:

    python run.py dataset=espeak task=sample task.by=published task.percent=3 task.seed=0
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from speechforget.cli.main import guard
from speechforget.config.validate import check
from speechforget.data.requests import published
from speechforget.stages.split import split_corpus
from speechforget.store import Store

ROOT = Path(__file__).parents[1]
LOCAL = ("_target_", "name", "lock", "download", "cache")  # options of a corpus that do not change its content


def config_of(overrides: list[str]) -> dict[str, Any]:
    """Compose the config of a request that is read from lists."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=["task=sample", "task.by=published", *overrides])
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    return resolved


def head_of(config: dict[str, Any], overrides: list[str], note: str | None) -> dict[str, str]:
    """Write the head of a list: how it was made, without this machine's paths."""
    dataset = config["dataset"]
    settings = {name: dataset[name] for name in ("validation", "holdout", "copies", "split_seed", "sample_rate")}
    settings |= {
        f"corpus.{name}": value
        for name, value in dataset["corpus"].items()
        if name not in LOCAL and not name.endswith("root")
    }
    if settings.get("corpus.seed") == settings["split_seed"]:  # the default
        del settings["corpus.seed"]
    words = [
        f"dataset.{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
    ]
    said = [
        word if not word.partition("=")[0].endswith("root") else f"{word.partition('=')[0]}=FOLDER"
        for word in overrides
    ]
    return {
        "requests": f"{dataset['name']}, label {dataset['label']}; "
        "utterances to be forgotten, balanced over the labels",
        **({} if note is None else {"note": " ".join(note.split())}),
        published.MADE: " ".join([published.COMMAND, *(word for word in said if word.startswith("dataset"))]),
        "speechforget": importlib.metadata.version("speechforget"),
        published.SETTINGS: " ".join(words),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="name=value",
        help="as for run.py: dataset=..., dataset.root=..., task.lists=FOLDER",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="seeds of the lists (default: 0 to 4)")
    parser.add_argument("--note", help="a sentence for the head of the lists, such as the copy of the corpus")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    config = config_of(arguments.overrides)
    folder = Path(config["task"]["lists"] or published.HOME).expanduser()
    data = split_corpus(config, Store(Path(config["output"]), config["lock"]))
    head = head_of(config, arguments.overrides, arguments.note)
    for seed in arguments.seeds:
        path = folder / f"{config['task']['list']['name']}-seed{seed}.txt"
        published.write(data.table, path, seed, {**head, "seed": str(seed)})
        print(path)


if __name__ == "__main__":
    guard(main)
