"""Run methods through the whole pipeline: a method for each kind of plan, and every combination at night."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.facts import ONE_OF_EACH

from speechforget.errors import NotApplicable
from speechforget.pipeline import Pipeline
from speechforget.store import Store

CONF = Path(__file__).parents[2] / "conf" / "method"
METHODS = sorted(path.stem for path in CONF.glob("*.yaml"))
MODELS = {
    "convolutions": ["model.channels=[8,8]"],
    "transformer": [
        "model=kwt",
        "model.width=64",
        "model.depth=1",
        "model.coefficients=12",
        "model.bands=24",
        "model.frames=51",
    ],
}
# A transformer has no kernels to reverse, and one network no shards.
UNDEFINED = {("kernel_reversal", "transformer"), ("sisa", "convolutions"), ("sisa", "transformer")}
# These leave no accuracy: few steps break a transformer that saw a hundred clips twice, and as few cannot repair it.
NOTHING_LEFT = {("head_only", "word", "transformer", "sample"), ("negate_layer", "word", "transformer", "sample")}


def combinations() -> list:
    """Return all combinations; the fast ones have speakers and a transformer, which other tests do not use."""
    chosen = []
    fast = {method: index for index, method in enumerate((*ONE_OF_EACH, "kernel_reversal"))}
    for method in METHODS:
        kinds = [kind for kind in OmegaConf.load(CONF / f"{method}.yaml").requests if kind != "attribute"]
        for label, model, kind in itertools.product(("word", "speaker"), MODELS, kinds):
            usual = label == "speaker" and model == "transformer" and method in fast
            marks = [] if usual and kind == kinds[fast[method] % len(kinds)] else [pytest.mark.nightly]
            chosen.append(pytest.param(method, label, model, kind, id=f"{method}-{label}-{model}-{kind}", marks=marks))
    return chosen


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one store for all, so that originals and oracles are shared."""
    return tmp_path_factory.mktemp("methods")


@pytest.mark.parametrize(("method", "label", "model", "kind"), combinations())
def test_a_method_works_for_every_label_model_and_request(
    method: str, label: str, model: str, kind: str, configure, output: Path
) -> None:
    config = configure(
        f"output={output}",
        f"dataset.label={label}",
        *MODELS[model],
        f"task={kind}",
        f"method={method}",
        "train.epochs=2",
    )
    if (method, model) in UNDEFINED:
        with pytest.raises(NotApplicable):
            Pipeline(config, Store(output)).result()
        return
    result = Pipeline(config, Store(output)).result()
    found = json.loads((result.folder / "result.json").read_text())
    values = {name: metric["value"] for name, metric in found["comparison"]["unlearned"].items()}
    assert found["method"] == method and all(value is None or math.isfinite(value) for value in values.values())
    assert all(0 <= values[f"accuracy_{part}"] <= 1 for part in ("forget", "retain", "test"))
    assert values["accuracy_retain"] > 0 or (method, label, model, kind) in NOTHING_LEFT
