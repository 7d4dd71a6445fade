"""Policies: every mistake is one sentence; numbers meet a threshold, do not meet it, or were not measured."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from speechforget.errors import UserError
from speechforget.record.entry import COLUMNS
from speechforget.record.policy import apply_policy, read_policy
from speechforget.record.standards import NOT_SHOWN, REQUIREMENTS, SHOWN, standards_of

THRESHOLD = {
    "figure": "membership_auc",
    "direction": "at most",
    "limit": 0.6,
    "source": "DPIA, section 4",
    "owner": "DPO",
}


def row(**numbers: Any) -> list[Any]:
    return [numbers.get(column) for column in COLUMNS]


def result(**changes: Any) -> dict[str, Any]:
    """An expanded result in which the attack is guessing, and the oracle, too."""
    names = ["membership_auc", "membership_attack_accuracy"]
    rows = [row(value=0.5, low=0.4, high=0.62, count=50, gap=-0.03), row(value=0.52, low=0.4, high=0.64, count=50)]
    table = {"names": names, "rows": rows, "oracles": 1}
    base = {"key": "a" * 64, "delivered": "unlearned", "purge": None, "audit": None, "settings": {"model": {}}}
    return {**base, "comparison": {"oracle": table, "unlearned": table}, **changes}


def written(folder: Path, *thresholds: Any, **more: Any) -> Path:
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump({"thresholds": list(thresholds), **more}))
    return path


def outcome(folder: Path, threshold: dict[str, Any], **changes: Any) -> tuple[str, float | None]:
    policy = apply_policy(read_policy(written(folder, {**THRESHOLD, **threshold})), [result(**changes)])
    found = policy["thresholds"][0]["outcomes"]["a" * 64]
    return found["status"], found["number"]


@pytest.mark.parametrize(
    ("threshold", "status", "number"),
    [
        ({}, "not met", 0.62),  # the end of the interval, not the value
        ({"limit": 0.62}, "met", 0.62),
        ({"compare": "value"}, "met", 0.5),
        ({"direction": "at least", "limit": 0.45}, "not met", 0.4),
        ({"compare": "gap", "limit": 0.03}, "met", 0.03),
        ({"compare": "gap", "limit": 0.02}, "not met", 0.03),
        ({"figure": "membership_attack_accuracy", "compare": "gap"}, "not measured", None),
        ({"figure": "swap_auc_margin"}, "not measured", None),
    ],
)
def test_a_number_meets_its_threshold_or_not(
    tmp_path: Path, threshold: dict[str, Any], status: str, number: float | None
) -> None:
    assert outcome(tmp_path, threshold) == (status, number)


def test_figures_of_an_audit_are_judged_too(tmp_path: Path) -> None:
    figure = {"name": "swap_auc_margin", "model": "unlearned", "value": 0.51, "low": 0.47, "high": 0.55}
    other = {**figure, "model": "original", "high": 0.9}
    assert outcome(tmp_path, {"figure": "swap_auc_margin"}, audit={"figures": [other, figure]}) == ("met", 0.55)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"figure": None}, "has no figure"),
        ({"source": ""}, "has no source"),
        ({"owner": None}, "has no owner"),
        ({"direction": "below"}, "direction is 'below', and must be one of: at most, at least"),
        ({"compare": "p"}, "compare is 'p'"),
        ({"limit": "low"}, "limit is 'low', and must be a finite number"),
        ({"limit": True}, "must be a finite number"),
        ({"limit": float("nan")}, "must be a finite number"),
        ({"compare": "gap", "limit": -0.1}, "a limit above 0"),
        ({"limits": 1}, "unknown key 'limits': did you mean 'limit'"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_threshold(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    path = written(tmp_path, THRESHOLD, {**THRESHOLD, **entry})
    with pytest.raises(UserError, match=words) as caught:
        read_policy(path)
    assert "Threshold 2" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["thresholds: []", "a", "thresholds: {a: 1}", "a: [", "\tx"])
def test_a_file_that_is_no_policy_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match="The policy"):
        read_policy(tmp_path / "p.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_policy(tmp_path / "missing.yaml")


def test_the_policy_of_the_docs_can_be_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "my_policy.yaml").write_text(block)
    thresholds = read_policy(tmp_path / "my_policy.yaml")["thresholds"]
    assert [(each["figure"], each["compare"]) for each in thresholds] == [
        ("membership_auc", "bound"),
        ("accuracy_test", "gap"),
    ]


def test_the_owner_of_a_policy_owns_its_thresholds(tmp_path: Path) -> None:
    bare = {name: value for name, value in THRESHOLD.items() if name != "owner"}
    assert read_policy(written(tmp_path, bare, owner="DPO", name="P"))["thresholds"][0]["owner"] == "DPO"


def rows(folder: Path, *thresholds: dict[str, Any], **changes: Any) -> dict[str, tuple[str, str]]:
    one = result(**changes)
    policy = apply_policy(read_policy(written(folder, *thresholds)), [one]) if thresholds else None
    return {each["requirement"]: (each["status"], each["why"]) for each in standards_of(one, policy)}


def test_nothing_is_shown_without_evidence(tmp_path: Path) -> None:
    found = rows(tmp_path, comparison={})
    assert list(found) == list(REQUIREMENTS) and {status for status, _ in found.values()} == {NOT_SHOWN}
    assert "no threshold was set" in found["AISVS C12.2.2"][1]


def test_deletion_is_shown_by_a_purge_whose_search_found_nothing(tmp_path: Path) -> None:
    purge = {"made": "2026-01-01", "found": [], "unknown": [{"what": "the source corpus", "why": ""}]}
    status, why = rows(tmp_path, purge=purge)["AISVS C12.2.1"]
    assert status == SHOWN and "the source corpus" in why
    assert rows(tmp_path, purge={**purge, "found": ["x"]})["AISVS C12.2.1"][0] == NOT_SHOWN


def test_membership_is_shown_only_below_every_threshold_that_was_set(tmp_path: Path) -> None:
    low, high = {**THRESHOLD, "limit": 0.7}, {**THRESHOLD, "limit": 0.6}
    accuracy = {**THRESHOLD, "figure": "accuracy_test", "direction": "at least"}
    missing = {**low, "figure": "per_utterance_auc"}
    name = "AISVS C12.2.2"
    assert rows(tmp_path, low, accuracy)[name][0] == SHOWN
    assert "DPIA, section 4" in rows(tmp_path, low)[name][1]
    for others in ([low, high], [low, missing], [accuracy], [{**low, "direction": "at least"}]):
        assert rows(tmp_path, *others)[name][0] == NOT_SHOWN


def test_training_again_is_shown_only_for_a_delivered_oracle(tmp_path: Path) -> None:
    name = "AISVS C12.2.3"
    assert rows(tmp_path, delivered="oracle")[name][0] == SHOWN
    assert "pretrained" in rows(tmp_path, delivered="oracle", settings={"model": {"pretrained": "x"}})[name][1]
    assert rows(tmp_path)[name][0] == NOT_SHOWN
    assert rows(tmp_path, exact="all shards, trained again")[name] == (
        SHOWN,
        "by the delivered model: all shards, trained again",
    )


@pytest.mark.parametrize(
    ("attack", "oracle", "status"),
    [
        ({"value": 0.52, "low": 0.4, "high": 0.64, "count": 50}, {"value": 0.5, "low": 0.4, "high": 0.6}, SHOWN),
        ({"value": 0.7, "low": 0.6, "high": 0.8, "count": 50}, {"value": 0.5, "low": 0.4, "high": 0.6}, NOT_SHOWN),
        ({"value": 0.5, "low": 0.1, "high": 0.9, "count": 8}, {"value": 0.5, "low": 0.4, "high": 0.6}, NOT_SHOWN),
        ({"value": 0.5, "low": 0.4, "high": 0.6, "count": 50}, {"value": 0.7, "low": 0.6, "high": 0.8}, NOT_SHOWN),
        ({}, {"value": 0.5, "low": 0.4, "high": 0.6}, NOT_SHOWN),
    ],
)
def test_guessing_is_shown_by_an_attack_that_can_tell(
    tmp_path: Path, attack: dict[str, Any], oracle: dict[str, Any], status: str
) -> None:
    unlearned = {"names": ["membership_attack_accuracy"], "rows": [row(**attack)], "oracles": 1}
    comparison = {
        "oracle": {"names": ["membership_auc"], "rows": [row(**oracle)], "oracles": 1},
        "unlearned": unlearned,
    }
    assert rows(tmp_path, comparison=comparison)["AISVS C11.3.3"][0] == status
