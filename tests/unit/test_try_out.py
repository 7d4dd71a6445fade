"""Options of a model that do not fit each other give one sentence before anything is trained."""

from typing import Any
from unittest.mock import Mock

import pytest

from speechforget.errors import UserError
from speechforget.stages import try_out as module
from speechforget.stages.try_out import try_out

TARGET = "speechforget.models.tcresnet.TCResNet"


def config(**options: Any) -> dict[str, Any]:
    model = {"name": "tcresnet", "_target_": TARGET, "channels": [8, 8], **options}
    return {"model": model, "dataset": {"seconds": 0.5, "sample_rate": 8000}}


@pytest.mark.parametrize("options", [{"kernel": 4}, {"bands": 0}, {"channels": []}])
def test_options_that_do_not_fit_are_one_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^model=tcresnet cannot be run on 0.5 s with these options \(.*defaults\.$"):
        try_out(config(**options))


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, 1),
        ({"pretrained": "facebook/hubert"}, 0),  # may be gigabytes
        ({"_target_": "mine.Model"}, 0),  # its author needs the stack trace
    ],
)
def test_only_models_of_ours_without_weights_are_tried(
    options: dict[str, Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Mock(wraps=module.build_classifier)
    monkeypatch.setattr(module, "build_classifier", build)
    try_out(config(**options))
    assert build.call_count == times
