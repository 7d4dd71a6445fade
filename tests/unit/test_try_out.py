"""Options of a model that do not fit each other give one sentence before anything is trained."""

from typing import Any

import pytest

from speechforget.errors import UserError
from speechforget.stages.try_out import try_out

TARGET = "speechforget.models.tcresnet.TCResNet"


def config(**options: Any) -> dict[str, Any]:
    model = {"name": "tcresnet", "_target_": TARGET, "channels": [8, 8], **options}
    return {"model": model, "dataset": {"seconds": 0.5, "sample_rate": 8000}}


@pytest.mark.parametrize("options", [{"kernel": 4}, {"bands": 0}, {"channels": []}])
def test_options_that_do_not_fit_are_one_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^model=tcresnet cannot be run on 0.5 s with these options \(.*defaults\.$"):
        try_out(config(**options))


def test_models_that_can_be_called_and_pretrained_ones_pass() -> None:
    try_out(config())
    try_out(config(kernel=4, pretrained="facebook/hubert"))


def test_an_error_in_a_users_own_model_is_left_to_its_stack_trace() -> None:
    try_out(config(_target_="mine.Model", kernel=4))
