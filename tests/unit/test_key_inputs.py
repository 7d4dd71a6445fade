"""Keys contain every config leaf that is not listed with a reason."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from speechforget import pipeline
from speechforget.config import inputs
from speechforget.config.inputs import UNCOUNTED, dividing_choices
from speechforget.data.audio.cache import Audio
from speechforget.data.requests.pool import Pool
from speechforget.data.requests.select import select
from speechforget.pipeline import Pipeline
from speechforget.stages import result
from speechforget.stages.split import Data
from speechforget.store import Artefact, OneByOne, key_of

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TABLE = pd.DataFrame(
    [
        {
            "id": f"{word}/{number}",
            "label": word,
            "speaker": f"s{number % 3}",
            "unit": f"{word}{number}",
            "subset": subset,
            "seconds": 1.0,
            "sha1": "",
        }
        for word, number in itertools.product("abc", range(12))
        for subset in [("train", "train", "holdout", "validation")[number % 4]]
    ]
)
REQUEST = select(TABLE, {"kind": "class", "classes": ["a"], "seed": 0})
GROUPS = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for group in ("model", "train", "dataset", "method", "trainer")
}
CHECKPOINT = "original.checkpoint=somewhere"
OTHERS: dict[tuple[str | int, ...], Any] = {("evaluation", "groups"): ["speaker"]}  # values that the recordings have


def pool_of(table: pd.DataFrame, request: Any, task: Any, pairs: int) -> Pool:
    """The request and as many others, and splits of them."""
    rows = np.arange(4)
    return Pool(rows, np.tile([0, 1, 0, 1], (pairs, 1)), rows, "pool", "")


class Keys(OneByOne):
    """A store that makes nothing."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}

    def produce(self, stage: str, name: str, inputs: Any, build: Any) -> Artefact:
        key = key_of(stage, inputs)
        self.keys[f"{stage} {len(self.keys)}"] = key
        return Artefact(Path(f"{name}-{key[:12]}"), key, built=False)


def divided(config: dict[str, Any], store: Keys) -> Data:
    """Return the same recordings for every config; another test proves that `dataset.corpus` is in the fingerprint."""
    split = store.produce("split", "", dividing_choices(config["dataset"]), None)
    return Data(Audio(Path(), Path(), TABLE, "", TABLE[:0]), TABLE, ["a", "b", "c"], split.key)


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "split_corpus", divided)
    weights = lambda model: [model["pretrained"], model.get("revision")] if model.get("pretrained") else None  # noqa: E731
    monkeypatch.setattr(pipeline, "fingerprint", weights)
    for module in (pipeline, result):
        monkeypatch.setattr(module, "code_of", lambda stage, *targets: [stage, *targets])
    monkeypatch.setattr(pipeline, "check_tuned", lambda config: None)
    monkeypatch.setattr(pipeline, "untried", lambda config, forget, trained: None)
    monkeypatch.setattr(pipeline, "with_seconds", lambda config, lengths: config)
    monkeypatch.setattr(pipeline, "select", lambda table, task, left_out: REQUEST)
    monkeypatch.setattr(pipeline, "draw_pool", pool_of)
    monkeypatch.setattr(Pipeline, "check_applicable", lambda self: None)


def keys(config: dict[str, Any]) -> list[str]:
    """The keys of all stages."""
    store = Keys()
    Pipeline(config, store).result()
    return list(store.keys.values())


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield (path, value) of every leaf."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        yield from leaves(inner, (*path, name))
    if not pairs:
        yield path, value


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 + 1
    if isinstance(value, (dict, list)):
        return type(value)([("more", 1)]) if isinstance(value, dict) else ["more"]
    return 17 if value is None or value.startswith("${") else f"{value} more"


def listed(path: tuple[str | int, ...]) -> bool:
    names = [str(name) for name in path]
    return any(".".join(names[:length]) in UNCOUNTED for length in range(1, len(names) + 1))


@pytest.fixture(scope="module")
def composed() -> dict[str, DictConfig]:
    """By kind of request, without anything resolved."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {kind: compose("config", [f"task={kind}"]) for kind in ("sample", "class")}


def with_choice(config: DictConfig, group: str, name: str) -> DictConfig:
    """The composed config with another choice of one group; what config.yaml says of the group comes first."""
    config = copy.deepcopy(config)
    OmegaConf.set_struct(config, False)
    config[group] = OmegaConf.merge(
        OmegaConf.load(CONF / "config.yaml").get(group, {}), OmegaConf.load(CONF / group / f"{name}.yaml")
    )
    return config


def resolved(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def with_leaf(config: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy with another value at one path."""
    if not path:
        return value
    copied = copy.copy(config)
    copied[path[0]] = with_leaf(config[path[0]], path[1:], value)
    return copied


def misplaced(config: dict[str, Any], root: tuple[str, ...]) -> dict[str, str]:
    """Return the leaves below `root` that count although they are listed, or do not count and are not listed."""
    before, wrong = keys(config), {}
    inside = config
    for name in root:
        inside = inside[name]
    for path, value in leaves(inside, root):
        counts = keys(with_leaf(config, path, OTHERS.get(path) or changed(value))) != before
        if counts == listed(path):
            wrong[".".join(map(str, path))] = "is listed and counts" if counts else "is in no key and is not listed"
    return wrong


@pytest.mark.parametrize("group", GROUPS)
def test_every_leaf_is_in_a_key_or_on_the_list(group: str, composed: dict[str, DictConfig]) -> None:
    for name in GROUPS[group]:
        wrong = misplaced(resolved(with_choice(composed["class"], group, name)), (group,))
        assert not wrong, (group, name, wrong)


def test_every_leaf_outside_of_these_groups_is_in_a_key_or_on_the_list(composed: dict[str, DictConfig]) -> None:
    config = {
        **resolved(composed["class"]),
        "tuned_for": {"task": "class"},
        "tuned_from": {"epochs": 3},
        "tuned_to": {"epochs": 3},
    }
    for name in [name for name in config if name not in {*GROUPS, "task", "oracle", "original", "evaluation"}]:
        assert not misplaced(config, (name,))
    assert not misplaced(resolved(composed["sample"]), ("evaluation",))  # a class request has no pairs


def test_every_leaf_of_the_list_exists(composed: dict[str, DictConfig]) -> None:
    """A stale line would hide a new leaf of that name."""
    config = {
        **resolved(with_choice(composed["class"], "method", "unsir")),
        "tuned_for": {},
        "tuned_from": {},
        "tuned_to": {},
    }
    whole = OmegaConf.create({**config, "method": {**config["method"], "tune": {}}})
    for leaf, reason in UNCOUNTED.items():
        assert reason and OmegaConf.select(whole, leaf, default=17) != 17, leaf


def test_a_number_that_depends_on_the_request_counts_where_it_is_referred_to(composed: dict[str, DictConfig]) -> None:
    for name in GROUPS["method"]:
        check_numbers_of_requests(name, composed)


def check_numbers_of_requests(name: str, composed: dict[str, DictConfig]) -> None:
    requests = OmegaConf.to_container(OmegaConf.load(CONF / "method" / f"{name}.yaml"))["requests"]
    for kind in requests if isinstance(requests, dict) else ():
        for path, value in leaves(requests[kind]):
            config = with_choice(composed[kind], "method", name)
            before = keys(resolved(config))
            OmegaConf.update(config, ".".join(map(str, ("method", "requests", kind, *path))), changed(value))
            assert keys(resolved(config)) != before, (kind, path)


class Stated:
    """A checkpoint of a user."""

    digest, labels, kind, files, model = "d" * 64, ("a", "b", "c"), "speechforget", (), {}


@pytest.mark.parametrize(
    "leaf", ["dataset.split_seed", "dataset.holdout", "dataset.copies", "train.augment.noise", "trainer.precision"]
)
def test_the_split_counts_for_what_is_made_of_a_checkpoint(
    leaf: str, composed: dict[str, DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other holdouts, or other recordings under the same ids, are another unlearned model."""
    monkeypatch.setattr(pipeline, "read_checkpoint", lambda config: Stated)
    config = {**resolved(composed["class"]), "original": {"checkpoint": "somewhere", "labels": None}}

    def unlearned(config: dict[str, Any]) -> str:
        run = Pipeline(config, Keys())
        return run.unlearn(run.train("original")).key

    path = tuple(leaf.split("."))
    value = OmegaConf.select(OmegaConf.create(config), leaf)
    assert unlearned(with_leaf(config, path, changed(value))) != unlearned(config)


def test_every_target_of_a_config_is_found() -> None:
    config = {"_target_": "a.B", "loss": {"_target_": "c.D", "parts": [{"_target_": "e.F"}, 3]}, "name": "x"}
    assert list(inputs.targets_in(config)) == ["a.B", "c.D", "e.F"]
