"""Layers and frontends: what each promises, against formulas and libraries."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.bcresnet import BCResNet
from speechforget.models.ecapa_tdnn import ECAPATDNN, from_speechbrain
from speechforget.models.kwt import KWT, Tokens
from speechforget.models.layers.cosine_head import CosineHead
from speechforget.models.layers.frontend import MFCC, LogMel, Samples
from speechforget.models.layers.pooling import VectorNorm, masked_statistics
from speechforget.models.res15 import Res15

RATE = 16000


def noise(*lengths: int, samples: int = RATE) -> tuple[Tensor, Tensor]:
    waveform = torch.randn(len(lengths), samples, generator=torch.Generator().manual_seed(1)) * 0.1
    return waveform, torch.tensor(lengths)


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


def test_mfcc_are_the_cosine_transform_of_the_bands() -> None:
    frontend = MFCC(RATE, 13, bands=40)
    waveform, lengths = noise(RATE, 8000)
    features = frontend(waveform, lengths)
    expected = scipy.fft.dct(frontend.log_mel(waveform, lengths).numpy(), type=2, norm="ortho", axis=1)[:, :13]
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-4)
    assert torch.equal(features[1, :, 51:], torch.zeros(13, 50))
    spans = torch.tensor([[[0.0, 0.5]], [[0.0, 0.1]]]).expand(2, 2, 1, 2)
    hidden = frontend(waveform, lengths, spans)
    assert (
        not hidden[:, :6].any() and not hidden[..., :10].any() and torch.equal(hidden[:, 7:, 10:], features[:, 7:, 10:])
    )
    with pytest.raises(UserError, match=r"model\.bands"):
        MFCC(RATE, 64, bands=40)


def test_samples_are_resampled_standardised_and_hidden_in_time() -> None:
    frontend = Samples(RATE, 8000)
    time = torch.arange(RATE) / RATE
    waveform = torch.stack([0.3 + 0.01 * torch.sin(2 * torch.pi * 1000 * time)] * 2)
    lengths = torch.tensor([RATE, 9001])
    samples = frontend(waveform, lengths)
    assert samples.shape == (2, 8000) and not samples[1, 4501:].any()
    assert samples[0].mean().item() == pytest.approx(0, abs=1e-4) and samples[0].var().item() == pytest.approx(
        1, rel=1e-2
    )
    assert torch.fft.rfft(samples[0]).abs().argmax().item() == 1000
    spans = torch.tensor([[[0.0, 1.0]], [[0.0, 0.25]]]).expand(2, 2, 1, 2)  # all frequencies, and a quarter of the time
    hidden = frontend(waveform, lengths, spans)
    assert not hidden[:, :2000].any() and torch.equal(hidden[:, 2000:], samples[:, 2000:])


def test_kwt_has_positions_for_any_number_of_frames() -> None:
    tokens = Tokens(40, 8, frames=10)
    with torch.no_grad():
        tokens.positions.copy_((torch.arange(11.0) - 1)[None, :, None].expand(1, 11, 8))
    counts = torch.tensor([4, 10, 19])
    assert torch.equal(tokens.places(counts[:1], 4)[0, :, 0], torch.arange(4.0))
    assert torch.equal(tokens.places(counts[:2], 10)[0, :, 0], torch.arange(10.0))
    stretched = tokens.places(counts, 19)[:, :, 0]
    assert torch.allclose(stretched[2], torch.arange(19.0) / 2)
    assert torch.equal(stretched[0, :4], torch.arange(4.0)) and torch.equal(stretched[1, :10], torch.arange(10.0))
    with pytest.raises(UserError, match="64, 128 or 192"):
        KWT(12, RATE, width=100)


def test_cosines_with_a_margin_are_additive_margin_softmax() -> None:
    """Wang et al., 2018, equation 5, with the training stage's way of subtracting the margin."""
    torch.manual_seed(0)
    head, embedding, label, margin = CosineHead(5, 3, scale=30.0), torch.randn(4, 5), torch.tensor([0, 2, 1, 1]), 0.2
    cosines = torch.cosine_similarity(embedding[:, None], head.weight[None], dim=2)
    logits = head(embedding)
    assert torch.allclose(logits, 30 * cosines, atol=1e-5) and torch.allclose(head(7 * embedding), logits, atol=1e-4)
    wanted = (30 * (cosines.gather(1, label[:, None])[:, 0] - margin)).exp()
    others = [sum((30 * cosines[row, j]).exp() for j in range(3) if j != label[row]) for row in range(4)]
    expected = torch.stack([-(wanted[row] / (wanted[row] + others[row])).log() for row in range(4)])
    loss = nn.functional.cross_entropy(
        logits - head.scale * margin * nn.functional.one_hot(label, 3), label, reduction="none"
    )
    assert torch.allclose(loss, expected, atol=1e-4)


def test_a_lone_vector_is_normalised_by_the_running_statistics() -> None:
    torch.manual_seed(0)
    norm = VectorNorm(4)
    norm(torch.randn(64, 4) * 3 + 1)
    lone, before = torch.randn(1, 4), {name: value.clone() for name, value in norm.state_dict().items()}
    alone = norm(lone)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    assert torch.equal(alone, norm.eval()(lone))


def test_statistics_leave_out_what_is_masked() -> None:
    x, mask = torch.randn(2, 3, 9), torch.ones(2, 1, 9)
    mask[1, :, 5:] = 0
    statistics = masked_statistics(x, mask)
    assert torch.allclose(statistics[0], torch.cat([x[0].mean(1), x[0].std(1, correction=0)]), atol=1e-6)
    assert torch.allclose(statistics[1], torch.cat([x[1, :, :5].mean(1), x[1, :, :5].std(1, correction=0)]), atol=1e-6)


def test_ecapa_without_speechbrain_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechbrain.lobes.models.ECAPA_TDNN", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[speakers\]'"):
        ECAPATDNN(2, RATE)


def test_speechbrain_leaves_the_precision_of_others_alone() -> None:
    from_speechbrain()
    from speechbrain.utils.quirks import applied_quirks

    assert not applied_quirks and not torch.backends.cuda.matmul.allow_tf32


def test_ecapa_pools_over_exactly_the_frames_that_hold_sound() -> None:
    from_speechbrain()
    from speechbrain.dataio.dataio import length_to_mask

    for frames in (7, 51, 101, 301):
        for kind in (torch.float32, torch.float64):
            heard = torch.arange(1, frames + 1)
            shares = (heard.to(kind) - 0.5) / frames
            assert torch.equal(length_to_mask(shares * frames, max_len=frames).sum(1), heard.to(kind))


def test_res15_refuses_what_the_paper_has_not() -> None:
    with pytest.raises(UserError, match="res15"):
        Res15(12, RATE, variant="res16")
