"""Makes the published lists of requests of a corpus: 1 to 10 percent of its training utterances, nested and balanced, a file for each seed.

    python scripts/request_lists.py dataset=espeak                                        into the package, speechforget/data/requests/
    python scripts/request_lists.py dataset=speech_commands dataset.root=FOLDER dataset.label=speaker
    python scripts/request_lists.py dataset=folder dataset.root=FOLDER task.lists=LISTS   into a folder of yours

The words are those of run.py. `python run.py dataset=espeak task=sample task.by=published task.percent=3 task.seed=0` reads a list.
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
LOCAL = ("_target_", "name", "lock", "download", "cache")  # of a corpus: no part of what it is


def config_of(overrides: list[str]) -> dict[str, Any]:
    """The resolved config of a request that is read from lists."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=["task=sample", "task.by=published", *overrides])
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    check(resolved)
    return resolved


def head_of(config: dict[str, Any], overrides: list[str], note: str | None) -> dict[str, str]:
    """What a list says of how it was made, without a place on this machine."""
    dataset = config["dataset"]
    settings = {name: dataset[name] for name in ("validation", "holdout", "copies", "split_seed", "sample_rate")}
    settings |= {
        f"corpus.{name}": value
        for name, value in dataset["corpus"].items()
        if name not in LOCAL and not name.endswith("root")
    }
    if settings.get("corpus.seed") == settings["split_seed"]:  # where it comes from
        del settings["corpus.seed"]
    words = [
        f"dataset.{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
    ]
    said = [
        word if not word.partition("=")[0].endswith("root") else f"{word.partition('=')[0]}=FOLDER"
        for word in overrides
    ]
    return {
        "requests": f"{dataset['name']}, label {dataset['label']}; utterances to be forgotten, balanced over the labels",
        **({} if note is None else {"note": " ".join(note.split())}),
        published.MADE: " ".join([published.COMMAND, *(word for word in said if word.startswith("dataset"))]),
        "speechforget": importlib.metadata.version("speechforget"),
        published.SETTINGS: " ".join(words),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="name=value",
        help="as for run.py: dataset=..., dataset.root=..., task.lists=FOLDER",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="of the lists; 0 to 4 unless named")
    parser.add_argument(
        "--note", help="a sentence for the head of the lists, such as which copy of the corpus they are of"
    )
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
