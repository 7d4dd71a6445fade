"""Resolve `dataset.seconds=auto` from the recordings, and warn of recordings that will be cropped."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speechforget.data.tables.transcript import TEXT
from speechforget.errors import UserError

logger = logging.getLogger(__name__)

AUTO = "auto"
PERCENTILE = 99
STEP = 0.1  # seconds; lengths are rounded up to a multiple
LONGEST = 600.0  # seconds
RARE = 5  # times the median: inputs so long are mostly padding


def with_seconds(config: Mapping[str, Any], lengths: pd.Series) -> dict[str, Any]:
    """Return the config with `dataset.seconds` as a number, and log the share of recordings that are longer.

    lengths: of all recordings of the corpus, in seconds. `auto` is their 99th percentile, rounded up to a tenth of a
    second; it depends on no seed and no subset. For transcripts it is the longest: a crop would lose words.
    Raises UserError where `auto` would be above LONGEST, and for transcripts of recordings that would be cropped.
    """
    dataset = dict(config["dataset"])
    asked, longest = dataset["seconds"], rounded_up(float(lengths.max()))
    text = dataset.get("label") == TEXT
    if asked == AUTO:
        dataset["seconds"] = rounded_up(float(np.percentile(lengths, 100 if text else PERCENTILE, method="higher")))
        if dataset["seconds"] > LONGEST:
            raise UserError(f"dataset.seconds=auto would be {dataset['seconds']:g}: set a number, up to {LONGEST:g}.")
        logger.info("%s: dataset.seconds=auto is %g", dataset["name"], dataset["seconds"])
        middle = float(lengths.median())
        if not text and dataset["seconds"] > RARE * max(middle, STEP):  # transcripts need them whole
            logger.warning(
                "%s: a few long recordings make every input %g s long, and half of the recordings have at most %.1f s: "
                "set dataset.seconds to a number if the long ones are no utterances of their label",
                *(dataset["name"], dataset["seconds"], middle),
            )
    seconds = float(dataset["seconds"])
    share = float((lengths > seconds + 1e-9).mean())
    if share and text:
        raise UserError(
            f"dataset.seconds={seconds:g} would crop {int((lengths > seconds + 1e-9).sum())} recordings, and their "
            f"transcripts have more words: set dataset.seconds={longest:g}, or leave longer recordings out."
        )
    if share:
        shown = f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"
        logger.log(
            logging.INFO if asked == AUTO else logging.WARNING,
            "%s: %s %% of the recordings are longer than the %g s used, and are cropped: dataset.seconds=%g uses all",
            *(dataset["name"], shown, seconds, longest),
        )
    return {**config, "dataset": dataset}


def rounded_up(seconds: float) -> float:
    """Round up to the next tenth of a second."""
    return round(math.ceil(round(seconds / STEP, 6)) * STEP, 1)
