"""Map the evidence of a result to the requirements of OWASP AISVS 1.0 on unlearning: shown by what, or not shown.

Source: OWASP Artificial Intelligence Security Verification Standard 1.0, chapters C11.3 and C12.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechforget.evaluation.audit.catalogue import ABOUT, ORACLE, REQUEST
from speechforget.record.entry import numbers_of
from speechforget.record.policy import AT_MOST, MET, NOT_MEASURED, NOT_MET, measured

SHOWN, NOT_SHOWN = "shown", "not shown"
GUESSING = 0.5
FEWEST = 30  # recordings that an attack is tried on, below which its accuracy says little
ATTACKS = ("per_utterance_accuracy", "membership_attack_accuracy")  # the stronger first
REQUIREMENTS = {
    "AISVS C12.2.1": "Level 1: deletion reaches data sets, evaluation sets, caches, feature and embedding stores.",
    "AISVS C12.2.2": "Level 2: shadow models or membership attacks show influence below a documented threshold.",
    "AISVS C12.2.3": "Level 3: the model was trained again without the data, or unlearning has a certified bound.",
    "AISVS C11.3.3": "The accuracy of membership attacks does not meaningfully exceed guessing.",
}


def standards_of(result: Mapping[str, Any], policy: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return one row for each requirement: status, and by what it is shown or why it is not. result: expanded."""
    judged = (_deletion(result), _threshold(result, policy), _retrained(result), _guessing(result))
    return [
        {"requirement": name, "asks": asks, "status": status, "why": why}
        for (name, asks), (status, why) in zip(REQUIREMENTS.items(), judged, strict=True)
    ]


def _deletion(result: Mapping[str, Any]) -> tuple[str, str]:
    ledger = result["purge"]
    if not ledger:
        return NOT_SHOWN, "no purge of the copies was recorded (speechforget store purge)"
    if ledger["found"]:
        return NOT_SHOWN, f"the search after the purge of {ledger['made']} still found {len(ledger['found'])} files"
    return SHOWN, (
        f"by the purge of {ledger['made']}, for copies below the output folder: its search found none. "
        f"Not known: {'; '.join(entry['what'] for entry in ledger['unknown'])}"
    )


def _threshold(result: Mapping[str, Any], policy: Mapping[str, Any] | None) -> tuple[str, str]:
    if policy is None:
        return NOT_SHOWN, "no threshold was set: give one with --policy"
    asked = [one for one in policy["thresholds"] if _tells_members(one["figure"]) and one["direction"] == AT_MOST]
    if not asked:
        return NOT_SHOWN, "the policy sets no upper limit for a membership attack"
    outcomes = [(one, one["outcomes"][result["key"]]) for one in asked]
    for status in (NOT_MET, NOT_MEASURED):
        for one, outcome in outcomes:
            if outcome["status"] == status:
                words = _compared(one, outcome) if status == NOT_MET else outcome["reason"]
                return NOT_SHOWN, f"a threshold is {status}: {words}"
    told = "; ".join(_compared(one, outcome) for one, outcome in outcomes if outcome["status"] == MET)
    return SHOWN, f"by figures below the policy threshold that was set: {told}"


def _tells_members(figure: str) -> bool:
    about = ABOUT.get(figure.removeprefix("hard_"))
    return figure.startswith("membership_") if about is None else about.question in (REQUEST, ORACLE)


def _compared(threshold: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    return (
        f"{threshold['figure']} ({threshold['compare']}) {outcome['number']:.3g}, "
        f"limit {threshold['limit']:g} ({threshold['source']})"
    )


def _retrained(result: Mapping[str, Any]) -> tuple[str, str]:
    model = result["settings"].get("model") or {}
    start = " from pretrained weights" if model.get("pretrained") or model.get("bundle") else ""
    if result["delivered"] != "oracle" and result.get("exact"):
        return SHOWN, f"by the delivered model: {result['exact']}{start}"
    if result["delivered"] != "oracle":
        return NOT_SHOWN, (
            "the delivered model was unlearned, not trained again, and its method certifies no bound that holds for "
            "readers of this record, who see the seed of its noise"
        )
    return SHOWN, f"by the delivered model: the oracle, trained again{start} without the request"


def _guessing(result: Mapping[str, Any]) -> tuple[str, str]:
    found = measured(result)
    name = next((name for name in ATTACKS if (found.get(name) or {}).get("value") is not None), None)
    if name is None:
        return NOT_SHOWN, "no membership attack gave an accuracy"
    entry = found[name]
    count = entry.get("count") or entry.get("units") or 0
    if entry["low"] is None or count < FEWEST:
        return NOT_SHOWN, f"the attack was tried on {count} recordings, too few to tell"
    if biased := _biased(result):
        return NOT_SHOWN, biased
    told = f"{name} is {entry['value']:.3g} ({entry['low']:.3g} to {entry['high']:.3g}, n={count})"
    if entry["low"] > GUESSING:
        return NOT_SHOWN, f"{told}, which is above guessing"
    return SHOWN, f"by {told}, which was not told apart from guessing"


def _biased(result: Mapping[str, Any]) -> str | None:
    """Say if the oracle, which knows neither side, is told apart by the attack: then it measures something else."""
    entry = numbers_of(result, "oracle").get("membership_auc")
    if entry is None or entry["low"] is None or entry["low"] <= GUESSING <= entry["high"]:
        return None
    return f"the attack tells the oracle, too (AUC {entry['value']:.3g}), so it measures more than membership"
