"""Say plainly what a record does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALWAYS = (
    "Copies of the recordings outside this output folder: the source corpus, backups, other machines, uploaded runs.",
    "Models derived from the original elsewhere, and copies of its weights: only those in this folder are listed.",
    "Requests of other kinds, other recordings, other methods: each answer is for its request alone.",
    "Attacks stronger than those that were run: a later attack may find what these did not.",
    "That the files were made by the procedure they describe: hashes show that nothing changed since, no more.",
)
PRETRAINED = (
    "What pre-training learned: encoders start from weights of a corpus that may hold the same recordings or speakers."
)
NO_ORACLE = "What perfect forgetting would give: at least one result has no oracle to compare with."
NO_HOLDOUT = "Membership: at least one result has no holdout, so its membership attacks have no non-members."
NO_AUDIT = "What single recordings give away: at least one result was not audited (evaluation=audit)."
PURGE = "Removal of copies in this folder: at least one request was not purged (speechforget store purge)."


def not_shown(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """List what the results do not show. results: expanded."""
    found = list(ALWAYS)
    models = [result["settings"].get("model") or {} for result in results]
    found += [PRETRAINED] if any(model.get("pretrained") or model.get("bundle") for model in models) else []
    found += [NO_ORACLE] if any(result["no_oracle"] for result in results) else []
    found += [NO_HOLDOUT] if any(not result["holdout"] for result in results) else []
    found += [NO_AUDIT] if any(not result["audit"] for result in results) else []
    found += [PURGE] if any(not result["purge"] for result in results) else []
    return found
