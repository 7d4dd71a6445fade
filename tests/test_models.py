"""Classifiers: the protocol that every conf/model/*.yaml keeps, their sizes, and what the frontend promises."""

from __future__ import annotations

import re
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from speechforget.errors import UserError
from speechforget.models.bcresnet import BCResNet
from speechforget.models.frontend import LogMel
from speechforget.models.tcresnet import TCResNet

RATE = 16000
CLASSES = 7
YAMLS = sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
models = pytest.mark.parametrize("yaml", YAMLS, ids=lambda path: path.stem)


def build(yaml: Path, classes: int = CLASSES, **overrides: object) -> nn.Module:
    config = OmegaConf.merge(OmegaConf.load(yaml), overrides)
    assert config.pop("name") == yaml.stem
    torch.manual_seed(0)
    return hydra.utils.instantiate(config, classes=classes, sample_rate=RATE)


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
    assert output.logits.shape == (3, CLASSES)
    assert isinstance(model.head, nn.Linear)
    assert torch.allclose(model.head(output.embedding), output.logits)


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
@pytest.mark.parametrize("samples", [4800, 16000, 33333])
def test_takes_any_number_of_samples(yaml: Path, samples: int) -> None:
    output = build(yaml)(*noise(samples, samples // 2, samples=samples))
    output.logits.sum().backward()
    assert output.logits.isfinite().all()


@models
def test_padding_does_not_matter(yaml: Path) -> None:
    model = build(yaml).eval().double()
    waveform, lengths = noise(9000, 12345)
    garbage = waveform.clone()
    garbage[0, 9000:] = 0.9
    garbage[1, 12345:] = -0.5
    first, second = model(waveform.double(), lengths), model(garbage.double(), lengths)
    assert torch.equal(first.logits, second.logits)


@models
def test_batch_mates_do_not_matter(yaml: Path) -> None:
    model = build(yaml).eval().double()
    waveform, lengths = noise(RATE, 9000, 5000)
    together = model(waveform.double(), lengths).logits
    alone = torch.cat([model(waveform[i : i + 1].double(), lengths[i : i + 1]).logits for i in range(3)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


@models
def test_the_same_seed_gives_the_same_weights_and_output(yaml: Path) -> None:
    first, second = build(yaml).eval(), build(yaml).eval()
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


@pytest.mark.parametrize(("width", "published"), [(1, 9.2e3), (8, 321e3)])
def test_bcresnet_has_the_published_size(width: float, published: float) -> None:
    assert parameters(BCResNet(12, RATE, width=width)) == pytest.approx(published, rel=0.02)


@models
def test_the_first_line_of_a_yaml_states_its_size(yaml: Path) -> None:
    stated = re.search(r"([\d.]+) K parameters, ([\d.]+) M multiply-adds", yaml.read_text().splitlines()[0])
    assert stated is not None, "say '<number> K parameters, <number> M multiply-adds' (12 classes, one second)"
    model = build(yaml, classes=12)
    assert parameters(model) == pytest.approx(float(stated[1]) * 1e3, rel=0.02)
    assert multiply_adds(model) == pytest.approx(float(stated[2]) * 1e6, rel=0.02)


def test_tcresnet8_has_about_the_published_size() -> None:
    model = TCResNet(12, RATE, channels=(16, 24, 32, 48), kernel=9, stem=(3, 1))
    assert parameters(model) == pytest.approx(66e3, rel=0.02)


def test_bcresnet_refuses_bands_that_do_not_divide() -> None:
    with pytest.raises(UserError, match="multiple of 40"):
        BCResNet(12, RATE, bands=64)


def test_frontend_masks_normalises_and_hides() -> None:
    frontend = LogMel(RATE, bands=40)
    waveform, lengths = noise(RATE, 8000)
    plain = frontend(waveform, lengths)
    assert plain.shape == (2, 40, 101)
    assert torch.equal(plain[1, :, 51:], torch.zeros(40, 50))
    assert plain[1, :, :51].mean().item() == pytest.approx(0, abs=1e-5)
    spans = torch.tensor([[[0.25, 0.5]], [[0.0, 0.1]]]).expand(2, 2, 1, 2)
    hidden = frontend(waveform, lengths, spans)
    kept = hidden != 0
    assert not kept[0, 10:20].any() and not kept[0, :, :10].any()
    assert torch.equal(hidden[0, 20:, 10:], plain[0, 20:, 10:]) and torch.equal(hidden[0, :10, 10:], plain[0, :10, 10:])


def test_frontend_hears_frequencies_in_order() -> None:
    frontend = LogMel(RATE, bands=40)
    time = torch.arange(RATE) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * frequency * time) for frequency in (200, 1000, 3000, 7000)])
    peaks = frontend(tones, torch.full((4,), RATE)).mean(2).argmax(1)
    assert peaks.diff().min() > 0


def test_frontend_refuses_empty_bands() -> None:
    with pytest.raises(UserError, match="fewer bands"):
        LogMel(RATE, bands=200)
