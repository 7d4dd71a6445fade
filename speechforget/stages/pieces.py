"""Take a piece of each recording's decoded samples, to search for copies of it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from speechforget.data.audio.cache import decode
from speechforget.errors import UserError
from speechforget.record.needles import piece_of
from speechforget.store.dry_run import NotMadeError, dry_run


def pieces(config: Mapping[str, Any], output: Path, ids: Set[str]) -> tuple[list[bytes], str]:
    """Return a piece of each recording that is loud enough, from the cache of a run; decodes nothing.

    config: of the run. Without the corpus where it was, or without decoded samples, there is none, and the second value
    says why.
    """
    from hydra.utils import instantiate

    dataset = config["dataset"]
    if dataset["cache"] == "none":
        return [], "no samples were searched for: dataset.cache=none keeps none"
    cache = output / "cache" if Path(config["cache"]) == Path(config["output"]) / "cache" else Path(config["cache"])
    try:
        with dry_run():
            corpus = instantiate(dict(dataset["corpus"]), root=dataset["root"], label=dataset["label"], cache=cache)
            audio = decode(corpus, cache, dataset["sample_rate"], "skip", config["lock"])
            samples = audio.samples()
    except (UserError, NotMadeError, OSError):
        return [], "no samples were searched for: the corpus is not as the run found it, so its cache is not known"
    wanted = audio.table[audio.table["id"].isin(ids)]
    spans = zip(wanted["offset"], wanted["samples"], strict=True)
    found = [piece_of(samples[offset : offset + count]) for offset, count in spans]
    return [piece for piece in found if piece is not None], ""
