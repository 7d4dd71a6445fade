"""Stage: warn of a request that may hurt others, before a method unlearns it. Needs no torch where it is found."""

from __future__ import annotations

import logging

from speechforget.evaluation.damage import harm_sentence
from speechforget.stages.attack_models import attack
from speechforget.stages.attack_values import read_values
from speechforget.stages.maker import Maker
from speechforget.store import Artefact
from speechforget.store.dry_run import is_dry_run

logger = logging.getLogger(__name__)

ALIGNMENT = "speechforget.attacks.alignment.Alignment"


def warn_of_harm(run: Maker, original: Artefact) -> None:
    """Measure the alignment of the request in the original, if the evaluation lists it, and warn of what it shows."""
    for options in run.config["evaluation"]["attacks"]:
        if options["_target_"] == ALIGNMENT and not is_dry_run():
            values = read_values(attack(run, original, options).folder)
            if sentence := harm_sentence({name: value._asdict() for name, value in values.items()}):
                logger.warning(sentence)
