"""Audits: complementary pairs are ordinary models of the store, which other methods and seeds share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.identity_table import documented, recorded

from speechforget.cli.plan import plan
from speechforget.cli.rebuild import compare, rebuild
from speechforget.config.validate import check
from speechforget.errors import UserError
from speechforget.launchers import shared_models
from speechforget.launchers.jobs import Job, Work
from speechforget.pipeline import Pipeline
from speechforget.record.build import build
from speechforget.record.folders import Outputs
from speechforget.record.shared import expanded
from speechforget.stages.audit import AUDIT
from speechforget.stages.recompute import recompute
from speechforget.stages.sources import make_sources
from speechforget.store import Store
from speechforget.store.graph import read_graph

ASKED = ["task=sample", "task.percent=20", "evaluation=audit", "evaluation.pairs=4", "evaluation.oracles=4"]
ASKED += ["evaluation.attacks=[]", "evaluation.more_metrics=[]", "train.epochs=1", "method=none"]


@pytest.fixture(scope="module")
def audited(configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one audit."""
    folder = tmp_path_factory.mktemp("audited")
    config = configure(*ASKED, f"output={folder}")
    check(config)
    Pipeline(config, Store.of(config)).result()
    return folder


def test_an_audit_is_in_its_result(audited: Path) -> None:
    (path,) = audited.glob("result/*/result.json")
    (figures,) = audited.glob(f"audit/*/{AUDIT}")
    result = json.loads(path.read_text())
    assert result["audit"] == json.loads(figures.read_text())
    assert result["audit"]["pairs"] == result["audit"]["oracles"] == 4
    assert result["audit"]["pool"]["utterances"] == 2 * result["request"]["forget"]
    found = {(figure["name"], figure["model"]): figure for figure in result["audit"]["figures"]}
    name = "swap_auc_margin"
    assert found[name, "original"]["value"] == found[name, "unlearned"]["value"]  # the method does nothing
    assert set(result["power"]) == set(result["comparison"]["oracle"]) - {"seconds"}
    for one in result["power"].values():
        assert (one["separation"] is None and one["reason"] and one["weak"]) or 0 <= one["low"] <= one["high"] <= 1
    assert len(result["artefacts"]) == 3 + 3  # original, oracle, unlearned, and three more oracles


def test_an_audit_is_reproduced_from_its_score_tables(audited: Path) -> None:
    outputs, (result,) = Outputs(audited), Outputs(audited).results
    (entry,) = expanded(build(audited))
    again = recompute(outputs, result, entry)
    assert again.difference is None and again.left_out == ()
    entry["audit"]["figures"][5]["value"] = 0.123
    difference = recompute(outputs, result, entry).difference
    assert difference is not None and difference.name == "audit.figures[5].value" and difference.recorded == 0.123


def test_the_table_of_keys_lists_what_an_audit_adds(audited: Path) -> None:
    told, used = documented(), recorded(audited)
    assert {"audit", "power"} < used.keys()
    assert all(used[stage] == told[stage] - {"untrained", "groups"} for stage in used)  # those are for other metrics


@pytest.mark.slow
def test_other_methods_and_seeds_share_the_pairs(audited: Path, configure) -> None:
    planned = plan(configure(*ASKED, f"output={audited}", "method=finetune", "seed=1"))
    missing = [(one.stage, one.only) for one in planned if not one.exists]
    assert [only for stage, only in missing if stage in ("original", "oracle")] == ["original"]  # that of seed 1
    assert [stage for stage, _ in missing].count("unlearned") == 1 + 8
    again = plan(configure(*ASKED, f"output={audited}", "seed=1"))
    assert [one.stage for one in again if not one.exists] == ["original", "unlearned", "scores", "scores", "result"]


@pytest.mark.slow
def test_the_first_wave_trains_every_model_once(configure, tmp_path: Path) -> None:
    jobs = []
    for number, seed in enumerate(("seed=0", "seed=1")):
        overrides = [*ASKED, seed, f"output={tmp_path}"]
        jobs.append(Job(Work({}, overrides, number, tmp_path), configure(*overrides)))
    models = [job.stage for job in shared_models.first_wave(jobs)]
    assert sorted(models).count("original") == 2  # one a seed
    assert len(models) == 2 + 4 + 8 + 4
    assert len(shared_models.first_wave(jobs[:1])) == 1 + 4 + 8 + 4


def test_no_model_of_a_pair_hears_the_other_half(configure, tmp_path: Path) -> None:
    config = configure(*ASKED, f"output={tmp_path}")
    pipeline = Pipeline(config, Store.of(config))
    data, pool = pipeline.data, pipeline.pool
    assert pool is not None
    for part in ("0a", "3b"):
        request = pool.forgetting(part)
        rows = make_sources(config, data, request).rows
        for name in ("train", "retain", "forget", "validation"):
            assert not np.isin(rows[name], request.withdrawn).any()
        assert np.array_equal(np.sort(np.concatenate([rows["retain"], rows["forget"]])), rows["train"])
        trained = make_sources(config, data, pool.trained_without(part)).rows["retain"]
        assert np.array_equal(trained, rows["train"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluation.pairs=1"], "at least 4 pairs and 4 oracles, not 1 and 4"),
        (["evaluation.oracles=2"], "at least 4 pairs and 4 oracles, not 4 and 2"),
        (["evaluation.oracles=0"], "whole number of at least 1"),
        (["evaluation.pairs=-1"], "whole number of at least 0"),
        (["evaluation.objective=speed"], "There is no evaluation.objective=speed"),
        (
            ["evaluation.objective=told_from_oracles", "evaluation.more_metrics=[]"],
            "needs the metrics told_from_oracles",
        ),
        (["evaluation.objective=exposure_forget", "evaluation=quick"], "told_from_oracles and exposure_forget"),
        (["evaluation.metrics=[]"], "evaluation.metrics is empty"),
        (["evaluation.attacks=probe"], "must be a list"),
        (["oracle=none"], "this run has none"),
        (["original.checkpoint=model"], "this run has none"),
        (["original.checkpoint=model", "oracle=train"], "originals of its own"),
        (["only=oracle-seed9"], "There is no only=oracle-seed9"),
    ],
)
def test_an_impossible_audit_is_refused_before_anything_is_decoded(configure, overrides, words) -> None:
    with pytest.raises(UserError, match=words):
        check(configure(*ASKED, *overrides))


def test_a_class_request_has_oracles_and_no_pairs(configure, tmp_path: Path) -> None:
    asked = [override for override in ASKED if not override.startswith("task")]
    planned = plan(configure(*asked, "task=class", f"output={tmp_path}"))
    assert [one.stage for one in planned].count("oracle") == 4
    assert "audit" not in {one.stage for one in planned}


def test_a_model_of_a_pair_can_be_rebuilt(audited: Path, tmp_path: Path) -> None:
    nodes = [node for node in read_graph(audited) if "pair1b" in node.name and node.stage in ("original", "unlearned")]
    assert len(nodes) == 2
    for node in nodes:
        same, sentence = compare(node, rebuild(node, audited, tmp_path / node.stage))
        assert same, sentence
