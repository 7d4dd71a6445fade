"""A request that a method's numbers were not tried on is warned of before anything is made, and in what is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from speechforget.config.tried import untried
from speechforget.config.validate import check_method
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.store import Store

ROOT = Path(__file__).parents[2]
WORDS = {"label": "word"}


def config(tried: Any, kind: str = "class") -> dict[str, Any]:
    return {"dataset": WORDS, "method": {"name": "some", "tried": tried}, "task": {"kind": kind}}


@pytest.mark.parametrize(
    ("tried", "kind", "forget", "warned"),
    [
        ({"class": [0.025, 0.1]}, "class", 17, True),
        ({"class": [0.025, 0.1]}, "class", 1, True),
        ({"class": [0.025, 0.1]}, "class", 10, False),
        ({"class": [0.025, 0.1]}, "sample", 17, False),
        (None, "class", 17, False),
    ],
)
def test_a_share_outside_is_one_sentence(tried: Any, kind: str, forget: int, warned: bool) -> None:
    sentence = untried(config(tried, kind), forget, 100)
    assert (sentence is not None) == warned
    if sentence:
        assert (
            f"{forget}.0 % of the training recordings" in sentence and "2.5 to 10 %" in sentence and "some" in sentence
        )


def test_a_range_must_be_two_ascending_shares() -> None:
    for ends in (0.1, [0.1], [0.2, 0.1], [0, 10], ["a", "b"]):
        with pytest.raises(UserError, match=r"method\.tried\.class must be \[lowest, highest\]"):
            check_method({"tried": {"class": ends}})
    with pytest.raises(UserError, match=r"method\.tried must be a mapping"):
        check_method({"tried": 0.1})
    check_method({"tried": {"class": [0, 1], "sample": None}})


def test_the_corpora_on_which_numbers_were_chosen_warn_of_nothing(configure) -> None:
    """Ten words of espeak; forty words and thirty speakers of arabic_speech_commands, as the hash splits them."""
    shares = {"class": (89, 104, 21, 33), "sample": (50,)}
    usual = configure()["method"]["tried"]
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        own = yaml.safe_load(path.read_text()).get("tried", {})
        chosen = {"name": path.stem, "tried": None if own is None else {**usual, **own}}
        for kind, numbers in shares.items():
            assert not [
                each
                for each in numbers
                if untried({"dataset": WORDS, "method": chosen, "task": {"kind": kind}}, each, 1000)
            ], path


def test_the_warning_comes_first_and_stays_with_the_result(
    configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys
) -> None:
    chosen = configure(
        f"output={tmp_path}", "method=noise", "task=class", "oracle=none", "train.epochs=1"
    )  # one class of four

    class Seen(Pipeline):
        def train(self, stage: str) -> Any:
            before.append("% of the training recordings" in caplog.text)
            return super().train(stage)

    before: list[bool] = []
    Seen(chosen, Store(tmp_path)).run()
    assert before == [True]
    (result,) = tmp_path.glob("result/*/result.json")
    assert "% of the training recordings" in json.loads(result.read_text())["untried"]
    assert "% of the training recordings" in " ".join(capsys.readouterr().out.split())
