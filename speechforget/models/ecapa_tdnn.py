"""ECAPA-TDNN for speakers, from speechbrain."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.cosine_head import CosineHead
from speechforget.models.layers.frontend import LogMel  # loads torchaudio by `_torchaudio` before speechbrain does
from speechforget.models.layers.pooling import VectorNorm

LAST = 1536  # channels of the aggregated layers, for either size (paper, figure 2)
# Placeholders for speechbrain's optional parts. Code that looks through all modules, as `inspect` does, fails on them.
STAND_INS = {"LazyModule", "DeprecatedModuleRedirect"}
QUIRKS = "allow_tf32,disable_jit_profiling,disable_cudnn_benchmarking"


def from_speechbrain() -> Any:
    """Import speechbrain's class without its quirks, which would change the precision of the whole process.

    Raises UserError where speechbrain is not installed.
    """
    os.environ.setdefault("SB_DISABLE_QUIRKS", QUIRKS)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # its INFO lines are about its own patches
    try:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    except ImportError as error:
        raise UserError("model=ecapa_tdnn needs speechbrain: pip install -e '.[speakers]'.") from error
    for name, module in list(sys.modules.items()):
        if name.startswith("speechbrain.") and type(module).__name__ in STAND_INS:
            del sys.modules[name]
    return ECAPA_TDNN


class ECAPATDNN(Classifier):
    """Classify by ECAPA-TDNN: Desplanques et al., Interspeech 2020.

    "ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN Based Speaker Verification". A
    time-delay layer, three Res2Net blocks with squeeze and excitation, their aggregation, attentive statistics over
    time. channels: 512 or 1024, the paper's two sizes. dimensions: of the embedding. scale: of the head's cosines.

    The network is speechbrain's. It differs from the paper in the features (log-mel bands, as in speechbrain's recipe,
    not MFCC) and in the margin, which the recipe subtracts from the cosine, not from the angle. It differs from
    speechbrain in one thing: its last batch normalisation takes batches of a single utterance. As in speechbrain,
    convolutions mirror the end of the batch, so the amount of padding (not its content) changes the last frames a
    little; means and attention leave padding out.
    """

    frontend: LogMel

    padding_counts = True  # the library's convolutions mirror the end of the batch

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        channels: int = 512,
        bands: int = 80,
        dimensions: int = 192,
        dropout: float = 0.0,
        scale: float = 30.0,
    ) -> None:
        super().__init__()
        self.frontend = LogMel(sample_rate, bands)
        self.network = from_speechbrain()(
            bands, channels=[channels] * 4 + [LAST], lin_neurons=dimensions, dropout=dropout
        )
        self.network.asp_bn = VectorNorm(2 * LAST)  # its parameters bear the same names
        self.head = CosineHead(dimensions, classes, scale)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        frames = features.shape[2]
        # speechbrain multiplies by the number of frames again and rounds up: half a frame less survives the rounding.
        shares = (self.frontend.frames(lengths).to(features.dtype) - 0.5) / frames
        embedding = self.network(features.transpose(1, 2), shares)[:, 0]
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        network = self.network
        return [*network.blocks, network.mfa, network.asp, network.asp_bn, network.fc, self.head]
