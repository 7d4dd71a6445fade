"""Classifiers: the protocol that every conf/model/*.yaml keeps, their sizes, and what the frontend promises."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from support.frames import check_head, joined
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from speechforget.distributed import group
from speechforget.models.bcresnet import BCResNet
from speechforget.models.ecapa_tdnn import ECAPATDNN
from speechforget.models.kwt import KWT
from speechforget.models.m5 import M5
from speechforget.models.matchboxnet import MatchboxNet
from speechforget.models.res15 import Res15
from speechforget.models.resnet34 import ResNet34
from speechforget.models.tcresnet import TCResNet
from speechforget.models.x_vector import XVector
from speechforget.optimizers import make_optimizer
from speechforget.pipeline import Pipeline
from speechforget.stages.sources import build_augment
from speechforget.store import Store

RATE = 16000
CLASSES = 7
ROOT = Path(__file__).parents[2]
EVERY = sorted((ROOT / "conf" / "model").glob("*.yaml"))
YAMLS = [path for path in EVERY if "\npretrained:" not in path.read_text()]  # those are in test_encoders.py
models = pytest.mark.parametrize("yaml", YAMLS, ids=lambda path: path.stem)


@functools.cache
def built_once(yaml: Path, classes: int) -> nn.Module:
    return fresh(yaml, classes)


def fresh(yaml: Path, classes: int = CLASSES) -> nn.Module:
    config = OmegaConf.load(yaml)
    assert config.pop("name") == yaml.stem
    config.pop("labels", None)
    torch.manual_seed(0)
    return hydra.utils.instantiate(config, classes=classes, sample_rate=RATE)


def build(yaml: Path, classes: int = CLASSES) -> nn.Module:
    """As `fresh`, copied from one that was built before."""
    return copy.deepcopy(built_once(yaml, classes))


def noise(*lengths: int, samples: int = RATE) -> tuple[Tensor, Tensor]:
    waveform = torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(1)) * 0.1
    return waveform, torch.tensor(lengths)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*noise(RATE))
    return counter.get_total_flops() / 2


@models
def test_output_and_head(yaml: Path) -> None:
    model = build(yaml).eval()
    output = model(*noise(RATE, 9000, 5000))
    assert isinstance(model.head, nn.Linear)
    check_head(model, output, (RATE, 9000, 5000))


@models
def test_layers_hold_every_weight_once_and_end_with_the_head(yaml: Path) -> None:
    model = build(yaml)
    layers = model.layers()
    assert layers[-1] is model.head
    held = [id(parameter) for layer in layers for parameter in layer.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


@models
def test_layers_come_in_execution_order(yaml: Path) -> None:
    model, called = build(yaml).eval(), []
    layers = model.layers()
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    model(*noise(RATE))
    assert called == list(range(len(layers)))


@models
def test_takes_any_number_of_samples(yaml: Path) -> None:
    for samples in (4800, 16000, 33333):
        output = build(yaml)(*noise(samples, samples // 2, samples=samples))
        output.logits.sum().backward()
        assert output.logits.isfinite().all(), samples


@models
def test_a_batch_of_one_can_be_trained_on(yaml: Path) -> None:
    """A request for one recording makes such batches; batch-norm over single vectors would refuse them."""
    model = build(yaml).train()
    model(*noise(RATE // 2, samples=RATE // 2)).logits.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@models
def test_padding_does_not_matter(yaml: Path) -> None:
    model = build(yaml).eval().double()
    waveform, lengths = noise(5000, 8123, samples=9000)
    garbage = waveform.clone()
    garbage[0, 5000:] = 0.9
    garbage[1, 8123:] = -0.5
    first, second = model(waveform.double(), lengths), model(garbage.double(), lengths)
    assert torch.equal(first.logits, second.logits)


@models
def test_batch_mates_do_not_matter(yaml: Path) -> None:
    model = build(yaml).eval().double()
    waveform, lengths = noise(9000, 7000, 5000, samples=9000)
    together = model(waveform.double(), lengths).logits
    alone = joined([model(waveform[i : i + 1].double(), lengths[i : i + 1]).logits for i in range(3)])
    assert torch.allclose(joined([together]), alone, rtol=0, atol=1e-12)


# These take means over all frames, or mirror the end of the batch (speechbrain), as published.
PADDING_COUNTS = {"tcresnet", "bcresnet", "ecapa_tdnn"}


@pytest.mark.parametrize(
    "yaml", [path for path in YAMLS if path.stem not in PADDING_COUNTS], ids=lambda path: path.stem
)
def test_how_much_padding_there_is_does_not_matter(yaml: Path) -> None:
    """So that batches may be as long as their longest utterance (dataset.lengths=bucketed)."""
    model = build(yaml).eval().double()
    for length in (5000, 8123):
        waveform, lengths = noise(length, samples=9000)
        padded = model(waveform.double(), lengths).logits
        alone = model(waveform[:, :length].double(), lengths).logits
        longer = torch.nn.functional.pad(waveform, (0, RATE // 2))  # 17000: more frames than KWT has positions for
        for other in (alone, model(longer.double(), lengths).logits):
            assert torch.allclose(*joined([padded, other]).chunk(2), rtol=0, atol=1e-10)


@models
def test_the_same_seed_gives_the_same_weights_and_output(yaml: Path) -> None:
    first, second = build(yaml).eval(), fresh(yaml).eval()
    assert torch.equal(first(*noise(RATE)).logits, second(*noise(RATE)).logits)


@models
def test_weights_alone_restore_a_model(yaml: Path) -> None:
    first, second = build(yaml), build(yaml)
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    first(*noise(RATE, RATE))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(*noise(RATE)).logits, second.eval()(*noise(RATE)).logits)


@models
def test_silence_is_finite(yaml: Path) -> None:
    assert build(yaml).eval()(torch.zeros(2, RATE), torch.tensor([RATE, 0])).logits.isfinite().all()


# Published sizes, with their number of classes. Speakers' networks are counted without the head, as in their papers;
# ResNet-34 with it (AutoSpeech, 1,251 speakers).
PUBLISHED: list[tuple[str, Callable[..., nn.Module], int, float]] = [
    ("bc-resnet-1", partial(BCResNet, width=1), 12, 9.2e3),
    ("bc-resnet-8", partial(BCResNet, width=8), 12, 321e3),
    ("tc-resnet8", partial(TCResNet, channels=(16, 24, 32, 48), kernel=9, stem=(3, 1)), 12, 66e3),
    ("matchboxnet-3x1x64", partial(MatchboxNet, repeat=1), 35, 77e3),
    ("matchboxnet-3x2x64", partial(MatchboxNet, repeat=2), 35, 93e3),
    ("kwt-1", partial(KWT, width=64), 12, 607_308),  # the authors' weights; ours has 101 positions, theirs 98
    ("kwt-2", partial(KWT, width=128), 12, 2_394_252),
    ("kwt-3", partial(KWT, width=192), 12, 5_360_844),
    ("res8", partial(Res15, variant="res8"), 12, 110e3),
    ("res15", partial(Res15, variant="res15"), 12, 238e3),
    ("res26", partial(Res15, variant="res26"), 12, 438e3),
    ("m5", M5, 10, 559_114),  # as the paper's table 1 makes it with biases, 0.5 M in its words
    ("resnet34", ResNet34, 1251, 22e6),
]
PUBLISHED_EMBEDDINGS: list[tuple[str, Callable[..., nn.Module], float]] = [
    ("x-vector", XVector, 4.2e6),
    ("ecapa-tdnn-512", partial(ECAPATDNN, channels=512), 6.2e6),
    ("ecapa-tdnn-1024", partial(ECAPATDNN, channels=1024), 14.7e6),
]


@pytest.mark.parametrize(
    ("make", "classes", "published"), [row[1:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED]
)
def test_a_model_has_the_published_size(make: Callable[..., nn.Module], classes: int, published: float) -> None:
    assert parameters(make(classes, RATE)) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("make", "published"), [row[1:] for row in PUBLISHED_EMBEDDINGS], ids=[row[0] for row in PUBLISHED_EMBEDDINGS]
)
def test_an_embedding_network_has_the_published_size(make: Callable[..., nn.Module], published: float) -> None:
    model = make(2, RATE)
    last = [model.segments[1]] if isinstance(model, XVector) else []  # the paper leaves out segment7
    assert parameters(model) - sum(parameters(part) for part in [model.head, *last]) == pytest.approx(
        published, rel=0.02
    )


@models
def test_the_first_line_of_a_yaml_states_its_size(yaml: Path) -> None:
    stated = re.search(r"([\d.]+) K parameters, ([\d.]+) M multiply-adds", yaml.read_text().splitlines()[0])
    assert stated is not None, "say '<number> K parameters, <number> M multiply-adds' (12 classes, one second)"
    model = build(yaml, classes=12)
    assert parameters(model) == pytest.approx(float(stated[1]) * 1e3, rel=0.02)
    assert multiply_adds(model) == pytest.approx(float(stated[2]) * 1e6, rel=0.02)


def test_a_recipe_has_every_key_and_can_be_built() -> None:
    recipes = {path.stem: OmegaConf.load(path) for path in (ROOT / "conf" / "train").glob("*.yaml")}
    default = recipes["default"]
    for name, recipe in recipes.items():
        assert recipe.keys() - {"sisa"} == default.keys() and recipe.augment.keys() == default.augment.keys(), name
        assert recipe.schedule in {"cosine", "linear", "constant"}, name
        make_optimizer([nn.Parameter(torch.zeros(1))], OmegaConf.to_container(recipe.optimizer), recipe.learning_rate)
        build_augment(OmegaConf.to_container(recipe.augment))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("matchboxnet", "kwt", "x_vector")]
    + [pytest.param(name, marks=pytest.mark.nightly) for name in ("res15", "m5", "ecapa_tdnn", "resnet34")],
)
def test_two_processes_train_what_one_trains(
    name: str, configure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Batch-norms (speechbrain's, too) and dropouts are those of the whole batch.

    SGD, because Adam makes large steps of gradients that are rounding only.
    """
    changes = [
        "dataset.sample_rate=16000",
        "trainer.precision=64-true",
        "train.epochs=1",
        f"model={name}",
        "only=original",
    ]
    changes += ["train.optimizer.name=sgd", "train.optimizer.weight_decay=0", "train.learning_rate=0.01"]
    changes += ["model.dropout=0.2"] if name in {"matchboxnet", "kwt", "ecapa_tdnn"} else []
    changes += ["model.variant=res8"] if name == "res15" else []  # the same in less time
    # Two equal batches: batch-norm over a last batch of two utterances multiplies x-vector's rounding by 10,000.
    changes += ["train.batch_size=41"] if name == "x_vector" else []
    weights = []
    try:
        for devices in (1, 2):
            place = tmp_path / str(devices)
            Pipeline(configure(f"output={place}", f"trainer.devices={devices}", *changes), Store(place)).run()
            (path,) = place.glob("original/*/weights.safetensors")
            weights.append(load_file(path))
    finally:
        group.close_team()
    one, two = weights
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert float((value.double() - two[key].double()).abs().max()) < 1e-9 * max(
            float(value.double().abs().max()), 1e-3
        ), key
