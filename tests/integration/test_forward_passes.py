"""An audit passes each utterance through each model once for its scores; attacks read outputs from these."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.passes import check, counted
from support.planted import with_fewer

ASKED = ["task=sample", "task.percent=20", "evaluation=audit", "evaluation.pairs=4", "evaluation.oracles=4"]
ASKED += ["train.epochs=1", "method=head_only"]


@pytest.mark.slow
def test_an_audit_scores_every_model_once(configure, tmp_path: Path) -> None:
    models = 1 + 1 + 4 + 4 + 8 + 8  # original, unlearned, oracles of request and pool, pairs before and after
    check(*counted(with_fewer(configure(f"output={tmp_path}", *ASKED))), models)
