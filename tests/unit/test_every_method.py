"""Every method that conf/method names through the whole pipeline: speakers as labels, and a transformer; every combination at night."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

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
UNDEFINED = {("kernel_reversal", "transformer")}  # which has no kernels to reverse

# Of a transformer that was trained for two epochs on some hundred clips these leave nothing: few steps break it, and as few cannot mend it.
NOTHING_LEFT = {("head_only", "word", "transformer", "sample"), ("negate_layer", "word", "transformer", "sample")}


def combinations() -> list:
    """Each method once by default, with what the other tests do not use: speakers and a transformer; requests in turns."""
    chosen = []
    for number, method in enumerate(METHODS):
        kinds = list(OmegaConf.load(CONF / f"{method}.yaml").requests)
        for label, model, kind in itertools.product(("word", "speaker"), MODELS, kinds):
            usual = label == "speaker" and model == "transformer" and kind == kinds[number % len(kinds)]
            marks = [] if usual else [pytest.mark.nightly]
            chosen.append(pytest.param(method, label, model, kind, id=f"{method}-{label}-{model}-{kind}", marks=marks))
    return chosen


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that originals and oracles are shared."""
    return tmp_path_factory.mktemp("methods")


@pytest.mark.parametrize(("method", "label", "model", "kind"), combinations())
def test_a_method_works_for_every_label_model_and_request(
    method: str, label: str, model: str, kind: str, configure, place: Path
) -> None:
    config = configure(
        f"output={place}",
        f"dataset.label={label}",
        *MODELS[model],
        f"task={kind}",
        f"method={method}",
        "train.epochs=2",
    )
    if (method, model) in UNDEFINED:
        with pytest.raises(NotApplicable):
            Pipeline(config, Store(place)).result()
        return
    result = Pipeline(config, Store(place)).result()
    found = json.loads((result.folder / "result.json").read_text())
    values = {name: metric["value"] for name, metric in found["comparison"]["unlearned"].items()}
    assert found["method"] == method and all(value is None or math.isfinite(value) for value in values.values())
    assert all(0 <= values[f"accuracy_{part}"] <= 1 for part in ("forget", "retain", "test"))
    assert values["accuracy_retain"] > 0 or (method, label, model, kind) in NOTHING_LEFT
