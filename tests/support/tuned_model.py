"""A small classifier with an option by the name that methods give to what a search tries."""

from typing import Any

from speechforget.models.tcresnet import TCResNet


class TunedModel(TCResNet):
    def __init__(self, tune: str, **options: Any) -> None:
        """tune: whole | frozen: only the head learns."""
        super().__init__(**options)
        for name, weight in self.named_parameters():
            weight.requires_grad_(tune == "whole" or name.startswith("head"))
