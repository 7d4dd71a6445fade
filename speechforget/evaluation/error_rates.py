"""Error rates of transcripts. Neither high nor low is better: the aim on every subset is the oracle's value."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from scipy import stats

from speechforget.evaluation.groups import SUBSETS, worst
from speechforget.evaluation.membership import FEWEST_SPEAKERS
from speechforget.evaluation.tables import NOTHING, Mask, Scores, Tables, Value, missing

Counts = NDArray[np.int64]
NO_LETTER = -1
KINDS = ("word", "character")
TEXTS_ONLY = "the models give no transcripts"


def rate(errors: Counts, of: Counts, units: NDArray[np.str_] | None = None) -> Value:
    """Compute errors per letter (or word) of several recordings, with a 95 % interval; `count` is letters (or words).

    errors, of: (n,). units: (n,), who speaks, "" where unknown: each is one unit where there are `FEWEST_SPEAKERS`
    known ones, else each recording is. The interval is Student's, of the ratio's linearised variance (Cochran 1977,
    equation 6.13), and ends at 0.
    """
    total = int(of.sum())
    if not total:
        return NOTHING
    value = float(errors.sum() / total)
    if units is not None and not (units == "").any() and len(np.unique(units)) >= FEWEST_SPEAKERS:
        place = np.unique(units, return_inverse=True)[1]
        errors, of = (np.bincount(place, each) for each in (errors, of))
    if len(of) < 2:
        return Value(value, math.nan, math.nan, total)
    spread = math.sqrt(len(of) / (len(of) - 1) * float(((errors - value * of) ** 2).sum())) / total
    half = float(stats.t.ppf(0.975, len(of) - 1)) * spread
    return Value(value, max(0.0, value - half), value + half, total)


def _errors(scores: Scores) -> dict[str, tuple[Counts, Counts]]:
    assert scores.errors is not None
    wrong_words, words, wrong_letters, letters, _ = scores.errors.T
    return {"word": (wrong_words, words), "character": (wrong_letters, letters)}


def _by_subset(tables: Tables) -> dict[str, Mask]:
    return {name: mask for name, mask in tables.subsets().items() if not name.endswith("_forgotten")}


def _speakers(tables: Tables, mask: Mask) -> NDArray[np.str_] | None:
    return None if tables.speaker is None else tables.speaker[mask]


def error_rates(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the word and the character error rate of the greedy transcripts on each subset.

    Explanation:
        values: word_error_rate_<subset>, character_error_rate_<subset>
        meaning: How many words (or letters) must change to turn what the model hears into what was said, for each word
            (or letter) that was said. Forget and retain are training recordings of the request and all others.
        formula: sum of insertions, deletions and substitutions / sum of words (letters) said; no language model.
        unit: a share, which can exceed 1, with a 95 % interval over speakers where 10 or more are known, else over
            recordings; `count` is words (letters).
        aim: the oracle's value on every subset. Above it on forget, the model stands out as one that was made to fail.
        fooled by: sentences that are easy to guess, which an oracle hears as well; a model that fails on all speech.
        source: Levenshtein 1966; Morris, Maier & Green, Interspeech 2004; interval: Cochran, "Sampling techniques",
            1977, equation 6.13.
    """
    scores = tables.of(model)
    if scores.errors is None:
        return {f"{kind}_error_rate_{name}": missing(TEXTS_ONLY) for name in _by_subset(tables) for kind in KINDS}
    found = {}
    for kind, (errors, of) in _errors(scores).items():
        for name, mask in _by_subset(tables).items():
            found[f"{kind}_error_rate_{name}"] = rate(errors[mask], of[mask], _speakers(tables, mask))
    return found


def worst_speakers(tables: Tables, model: str) -> dict[str, Value]:
    """Compute the character error rate of the worst 5 % of the speakers, on retain and on test.

    Explanation:
        values: character_error_rate_worst_speakers_<subset>
        meaning: The error rate for the speakers whom the model serves worst; `named` in result.json says who they are.
        formula: mean over the worst ceil(0.05 G) of G speakers of the mean of wrong letters / letters of a recording;
            speakers with fewer than 5 recordings are left out.
        unit: a share, which can exceed 1; no interval, because the speakers are chosen by the same numbers.
        aim: the oracle's value: its own worst speakers show how bad the worst of so many are by chance.
        fooled by: few recordings of a speaker, which make the worst look worse.
        source: Sagawa et al., ICLR 2020 (worst groups).
    """
    scores, subsets = tables.of(model), tables.subsets()
    names = {subset: f"character_error_rate_worst_speakers_{subset}" for subset in SUBSETS}
    if scores.errors is None or tables.speaker is None:
        reason = TEXTS_ONLY if scores.errors is None else "the corpus names no speakers"
        return {name: missing(reason) for name in names.values()}
    wrong, letters = _errors(scores)["character"]
    share = wrong / np.maximum(letters, 1)
    return {
        name: worst(share[subsets[subset]], tables.speaker[subsets[subset]], "speaker", True)
        for subset, name in names.items()
    }


def heard_differently(tables: Tables, model: str) -> dict[str, Value]:
    """Compare the transcripts of a model with those of the oracle, letter by letter.

    Explanation:
        values: heard_differently_<subset>
        meaning: How many letters must change to turn what the model hears into what the oracle hears, for each letter
            that was said. It sees answers that differ from the oracle's, right or wrong.
        formula: sum of edit distances between both transcripts / sum of letters said.
        unit: a share, which can exceed 1, with the interval of an error rate; `count` is letters.
        aim: the value of another oracle in the model's place (null_low to null_high).
        fooled by: differences between any two trainings.
        source: Milani Fard et al., NeurIPS 2016 (churn), for letters.
    """
    mine, oracle = tables.of(model), tables.oracle
    if mine.heard is None or oracle.heard is None:
        return {f"heard_differently_{name}": missing(TEXTS_ONLY) for name in _by_subset(tables)}
    both = zip(map(_letters, mine.heard), map(_letters, oracle.heard), strict=True)
    apart = np.array([Levenshtein.distance(*texts) for texts in both])
    letters = _errors(mine)["character"][1]
    return {
        f"heard_differently_{name}": rate(apart[mask], letters[mask], _speakers(tables, mask))
        for name, mask in _by_subset(tables).items()
    }


def _letters(heard: NDArray[np.int16]) -> list[int]:
    found: list[int] = heard[heard != NO_LETTER].tolist()
    return found
