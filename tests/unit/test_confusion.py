"""Interclass confusion and wrong labels, in closed form."""

from dataclasses import replace

import numpy as np
import pytest
from support.score_tables import make_scores

from speechforget.evaluation.confusion import confusion
from speechforget.evaluation.tables import Tables
from speechforget.evaluation.wrong_labels import wrong_labels

ROLE = ["forget"] * 4 + ["retain"] * 3 + ["test"] * 4
LABEL = np.array([0, 0, 2, 2, 0, 1, 2, 0, 0, 2, 1])  # true
ORIGINAL = [2, 2, 0, 2, 0, 0, 2, 0, 2, 2, 2]
ORACLE = [0, 0, 2, 2, 0, 1, 1, 0, 1, 2, 1]


def tables(confused: tuple[int, ...]) -> Tables:
    def scores(predicted):
        return make_scores(ROLE, LABEL, np.eye(3)[np.array(predicted)] * 9.0)

    return Tables(scores(ORIGINAL), (scores(ORACLE),), scores(ORACLE), (), 0, confused=confused)


def test_only_the_other_class_counts_as_confused() -> None:
    found = confusion(tables((0, 2)), "original")
    values = {name.removeprefix("confusion_"): (value.value, value.count) for name, value in found.items()}
    assert values["forget"] == (3 / 4, 4)
    assert values["retain"] == (0, 2)  # a third class that is predicted as one of the two does not count
    assert values["test"] == pytest.approx((1 / 3, 3))
    assert np.isnan(values["validation"][0]) and values["validation"][1] == 0
    assert all(value.low <= value.value <= value.high for value in found.values() if value.count)


def test_an_oracle_that_errs_elsewhere_is_not_confused() -> None:
    found = confusion(tables((0, 2)), "oracle")
    assert found["confusion_forget"].value == found["confusion_test"].value == 0


def test_the_order_of_the_two_classes_does_not_count() -> None:
    one, other = (confusion(tables(pair), "original") for pair in ((0, 2), (2, 0)))
    assert {name: value for name, value in one.items() if value.count} == {
        name: value for name, value in other.items() if value.count
    }


def test_without_exchanged_labels_there_is_no_confusion() -> None:
    found = confusion(tables(()), "original")
    assert len(found) == 4 and all(np.isnan(value.value) and "exchanged" in value.reason for value in found.values())


def test_wrong_labels_are_counted_where_they_were_taught() -> None:
    taught = np.array([1, 2, 2, 0, 1, 1, 2, 0, 0, 2, 1])  # wrong for three of forget and one of retain
    made = replace(tables(()), taught=taught)
    found = {model: wrong_labels(made, model) for model in ("original", "oracle")}
    known = {model: values["wrong_label_forget"] for model, values in found.items()}
    assert (known["original"].value, known["original"].count) == (pytest.approx(1 / 3), 3)
    assert known["oracle"].value == 0.0
    returned = {model: values["accuracy_returned_test"] for model, values in found.items()}
    assert returned["original"][:4] == (0.0, 0.0, 0.0, 4)
    assert returned["oracle"].value == pytest.approx(3 / 4 - 2 / 4)
    assert returned["oracle"].low < 0.0 < returned["oracle"].value < returned["oracle"].high


@pytest.mark.parametrize("taught", [None, LABEL])
def test_without_wrong_labels_none_is_known(taught: np.ndarray | None) -> None:
    found = wrong_labels(replace(tables(()), taught=taught), "original")
    assert len(found) == 2 and all(np.isnan(value.value) and "wrong label" in value.reason for value in found.values())
