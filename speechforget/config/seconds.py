"""How much of a recording the classifier hears: what `dataset.seconds` leaves unheard, and `auto`, which is taken from the recordings."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from speechforget.errors import UserError

logger = logging.getLogger(__name__)

AUTO = "auto"
PERCENTILE = 99
STEP = 0.1  # seconds, to which lengths are rounded up
LONGEST = 600.0  # seconds


def with_seconds(config: Mapping[str, Any], lengths: pd.Series) -> dict[str, Any]:
    """The config with `dataset.seconds` as a number, and one line on what that leaves unheard.

    lengths: of all recordings of the corpus, in seconds; `auto` is their 99th percentile, rounded up to a tenth of a second, and does not depend
    on a seed or a subset. Raises UserError where that would be more than a classifier can be asked to hear.
    """
    dataset = dict(config["dataset"])
    asked, longest = dataset["seconds"], rounded_up(float(lengths.max()))
    if asked == AUTO:
        dataset["seconds"] = rounded_up(float(np.percentile(lengths, PERCENTILE, method="higher")))
        if dataset["seconds"] > LONGEST:
            raise UserError(
                f"dataset.seconds=auto would be {dataset['seconds']:g}: set how many seconds are heard, up to {LONGEST:g}."
            )
        logger.info("%s: dataset.seconds=auto is %g", dataset["name"], dataset["seconds"])
    seconds = float(dataset["seconds"])
    share = float((lengths > seconds + 1e-9).mean())
    if share:
        shown = f"{100 * share:.1f}" if share < 0.1 else f"{100 * share:.0f}"
        logger.log(
            logging.INFO if asked == AUTO else logging.WARNING,
            "%s: %s %% of the recordings are longer than the %g s heard, and are cropped: dataset.seconds=%g hears all",
            *(dataset["name"], shown, seconds, longest),
        )
    return {**config, "dataset": dataset}


def rounded_up(seconds: float) -> float:
    """To the next tenth of a second."""
    return round(math.ceil(round(seconds / STEP, 6)) * STEP, 1)
