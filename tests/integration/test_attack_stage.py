"""Attacks on models as a stage: what is made, what is in the keys, and what stands in the result."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.passes import check, counted
from support.planted import listed, with_fewer

from speechforget.cli.plan import plan
from speechforget.cli.rebuild import compare, rebuild
from speechforget.data.requests.select import select
from speechforget.errors import UserError
from speechforget.pipeline import Pipeline
from speechforget.stages.attack import checked, roles, run_attack
from speechforget.stages.attack_values import read_values
from speechforget.stages.compare import measured
from speechforget.stages.score_files import read_untrained
from speechforget.stages.split import split_corpus
from speechforget.stages.untrained import MODELS
from speechforget.store import Artefact, Store
from speechforget.store.graph import read_graph

MINE = """
import math
import numpy as np
import torch
from helper_of_mine import unit
from speechforget.evaluation.tables import Value

class Mine:
    def __init__(self, *, name: str = "mine", scale: float = 1.0):
        self.name, self.scale = name, scale

    def __call__(self, subject):
        count = len(subject.rows["forget"])
        return {f"{self.name}_size": Value(self.scale * count * unit, math.nan, math.nan, count, "", ("first",))}

class Silent(Mine):
    def __call__(self, subject):
        return {"silent": Value(math.nan, math.nan, math.nan, 0)}

class Wordless(Mine):
    def __call__(self, subject):
        return {"wordless": 0.5}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module of attacks."""
    (tmp_path / "attack_of_mine.py").write_text(MINE)
    (tmp_path / "helper_of_mine.py").write_text("unit = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run_and_passes(configure, tmp_path_factory):
    """A run of all attacks of the yaml, with smaller numbers, and the forward passes of its evaluation."""
    folder = tmp_path_factory.mktemp("attacked")
    config = configure(
        f"output={folder}", "evaluation=full", "evaluation.oracles=2", "method=head_only", "train.epochs=2"
    )
    config = with_fewer(config)
    return counted(config)


@pytest.fixture(scope="module")
def ran(run_and_passes):
    return run_and_passes[0].config


def test_every_model_is_scored_once_on_every_utterance(run_and_passes):
    check(*run_and_passes, models=1 + 2 + 1)


LOOKED_UP = ("Prototype", "Verification")  # they need what the scores hold, and no pass


def result_in(config, name="*"):
    (found,) = Path(config["output"]).glob(f"result/{name}/result.json")
    return json.loads(found.read_text())


def with_attacks(config, *attacks):
    return {**config, "evaluation": {**config["evaluation"], "attacks": list(attacks)}}


def of_mine(kind="Mine", **options):
    return {"_target_": f"attack_of_mine.{kind}", **options}


def states(config):
    return {(one.stage, one.name.partition("-")[0]): one.state for one in plan(config) if one.stage == "attack"}


def test_every_attack_of_the_yaml_stands_in_the_result_with_its_gap(ran):
    comparison = result_in(ran)["comparison"]
    for name in ("probe_label_embedding", "prototype_1_accuracy", "relearn_1_area", "int8_accuracy_forget"):
        entry = comparison["unlearned"][name]
        assert entry["gap"] == pytest.approx(entry["value"] - comparison["oracle"][name]["value"])
        assert comparison["oracle"][name]["gap"] == 0
    assert comparison["unlearned"]["verification_eer"]["reason"]
    models = {one.key: one for one in plan(ran) if one.stage in {"original", "oracle", "unlearned"}}
    made = [one for one in plan(ran) if one.stage == "attack"]
    assert len(made) == len(listed()) * len(models) and all(one.exists for one in made)
    for one in made:
        cost = json.loads((Path(one.folder) / "cost.json").read_text())
        values = read_values(Path(one.folder))
        applies = not all(value.reason for value in values.values())
        looked_up = Path(one.folder).name.startswith(LOOKED_UP)
        passes = cost["forward"] + cost["forward_backward"]
        assert cost["seconds"] > 0 and (passes > 0) == (applies and not looked_up)
        assert values and all(math.isfinite(value.value) or value.reason for value in values.values())


def test_what_an_oracle_differs_by_is_in_the_result(ran):
    spread = result_in(ran)["comparison"]["unlearned"]["relearn_1_area"]["oracle_spread"]
    assert spread is not None and spread >= 0


def test_a_changed_number_runs_that_attack_alone_again(ran):
    attacks = ran["evaluation"]["attacks"]
    changed = with_attacks(ran, {**attacks[0], "folds": 3}, *attacks[1:])
    found = states(changed)
    assert found.pop(("attack", "Probe")) == "missing" and set(found.values()) == {"exists"}
    assert set(states({**ran, "seed": 1}).values()) == {"missing"}


@pytest.mark.slow
def test_a_users_attack_runs_and_its_code_is_in_the_key(ran, mine):
    config = with_attacks(ran, of_mine(), of_mine(name="twice", scale=2.0))
    Pipeline(config, Store.of(config)).run()
    keys = {one.key for one in plan(config) if one.stage == "attack"}
    assert set(states(config).values()) == {"exists"}
    newest = max(Path(ran["output"]).glob("result/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    entries = json.loads(newest.read_text())["comparison"]["unlearned"]
    size = result_in(ran, newest.parent.name)["request"]["forget"]
    assert entries["mine_size"]["value"] == 2 * size and entries["twice_size"]["value"] == 4 * size
    assert entries["mine_size"]["named"] == ["first"] and "reason" not in entries["mine_size"]
    (mine / "helper_of_mine.py").write_text("unit = 3\n")
    assert not keys & {one.key for one in plan(config) if one.stage == "attack"}


def attacked(config, tmp_path, options):
    """Run one attack on the original of the run."""
    folder = tmp_path / "attack"
    folder.mkdir()
    data = split_corpus(config, Store.of(config))
    original = next(Path(config["output"]).glob("original/*/weights.safetensors")).parent
    scores = next(Path(config["output"]).glob(f"scores/{original.name.rpartition('-')[0]}-*/DONE")).parent
    run_attack(folder, original, scores, config, data, select(data.table, config["task"], data.left_out), options)
    return folder


@pytest.mark.parametrize(("name", "said"), [("Silent", "gives no finite silent and no reason"), ("Wordless", "Value")])
def test_an_attack_without_a_number_or_a_reason_is_refused(name, said, ran, mine, tmp_path):
    with pytest.raises(UserError, match=said):
        attacked(ran, tmp_path, of_mine(name))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("probe", "give each attack a _target_"),
        ({"folds": 5}, "give each attack a _target_"),
        ({"_target_": "speechforget.attacks.probe.Prob"}, "Prob"),
        ({"_target_": "speechforget.attacks.probe.Probe", "fold": 5}, "fold"),
        ({"_target_": "speechforget.attacks.probe.Probe", "folds": 1}, "folds must be a whole number of at least 2"),
    ],
)
def test_a_wrong_entry_stops_before_anything_is_trained(options, said, configure, tmp_path):
    config = with_attacks(configure(f"output={tmp_path}"), options)
    with pytest.raises(UserError, match=said):
        Pipeline(config, Store.of(config)).run()
    assert not list(tmp_path.glob("original/*/DONE"))


def test_two_attacks_of_one_name_are_a_sentence(ran):
    made = [one for one in plan(ran) if one.stage == "attack"][:2]
    artefacts = [Artefact(Path(made[0].folder), made[0].key, built=False)] * 2
    with pytest.raises(UserError, match="Two attacks give 'probe_"):
        measured({"original": artefacts})


def test_an_attack_can_be_rebuilt_to_the_bit(ran, tmp_path):
    nodes = [node for node in read_graph(Path(ran["output"])) if node.stage == "attack"]
    node = next(node for node in nodes if node.name.startswith("NoiseBall") and "class" in node.name)
    assert {parent.stage for parent in node.parents} >= {"split"} and node.results == 1
    again = rebuild(node, Path(ran["output"]), tmp_path)
    assert compare(node, again) == (True, "equal to the bit")


def test_a_damaged_file_of_values_is_a_sentence(ran, tmp_path):
    (tmp_path / "attacks.json").write_text("{}")
    with pytest.raises(UserError):
        read_values(tmp_path)


def test_withdrawn_utterances_have_no_role(configure, tmp_path):
    config = configure(f"output={tmp_path}")
    data = split_corpus(config, Store.of(config))
    ids = [*data.table["id"].iloc[data.rows("train")[:9]], *data.table["id"].iloc[data.rows("holdout")[:3]]]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    task = configure("task=sample", "task.by=ids", f"task.ids={tmp_path / 'list.txt'}")["task"]
    request = select(data.table, task, data.left_out)
    found = roles(data, request)
    assert len(request.withdrawn) >= 3
    for rows in found.values():
        assert not np.isin(request.withdrawn, rows).any() and (np.diff(rows) > 0).all()
    assert not set(found["forget"]) & set(found["retain"])


def test_checked_refuses_what_is_no_mapping():
    with pytest.raises(UserError, match="must return a dict"):
        checked([0.5], "mine")


def test_zrf_compares_every_model_with_the_same_models_of_random_weights(ran, tmp_path):
    every = sorted(Path(ran["output"]).glob("result/*/result.json"))  # other tests of this file add attacks to the run
    result = json.loads(every[0].read_text())
    entries = {model: numbers["zrf_forget"] for model, numbers in result["comparison"].items()}
    assert all(1 - math.log(2) <= entry["value"] <= 1 for entry in entries.values())
    assert entries["unlearned"]["gap"] == pytest.approx(entries["unlearned"]["value"] - entries["oracle"]["value"])
    (node,) = [node for node in read_graph(Path(ran["output"])) if node.stage == "untrained"]
    logits = read_untrained(node.folder)
    assert logits.shape[:2] == (MODELS, result["request"]["forget"])
    assert min(np.abs(one - other).max() for one, other in itertools.combinations(logits, 2)) > 0
    assert compare(node, rebuild(node, Path(ran["output"]), tmp_path)) == (True, "equal to the bit")


def test_models_of_random_weights_are_made_only_for_a_metric_that_needs_them(ran):
    others = [path for path in ran["evaluation"]["more_metrics"] if not path.endswith(".zrf")]
    without = {**ran, "evaluation": {**ran["evaluation"], "more_metrics": others}}
    assert "untrained" in {one.stage for one in plan(ran)} - {one.stage for one in plan(without)}
    seed = [one for one in plan({**ran, "seed": 1}) if one.stage == "untrained"]
    assert [one.state for one in seed] == ["exists"]  # all seeds share them
