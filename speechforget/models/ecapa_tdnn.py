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
from speechforget.models.layers.frontend import (
    LogMel,  # which has torchaudio loaded by our own file before speechbrain asks for it
)
from speechforget.models.layers.pooling import VectorNorm

LAST = 1536  # channels of the aggregated layers, for either size (paper, figure 2)
STAND_INS = {
    "LazyModule",
    "DeprecatedModuleRedirect",
}  # for its optional parts: whoever looks through all modules, as `inspect` does, trips over them
QUIRKS = "allow_tf32,disable_jit_profiling,disable_cudnn_benchmarking"


def from_speechbrain() -> Any:
    """speechbrain's class. Its import would change the precision of the whole process (what it calls quirks), other models' too: not here.

    Raises UserError where speechbrain is not installed.
    """
    os.environ.setdefault("SB_DISABLE_QUIRKS", QUIRKS)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # it tells of its quirks
    try:
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    except ImportError as error:
        raise UserError("model=ecapa_tdnn needs speechbrain: pip install -e '.[speakers]'.") from error
    for name, module in list(sys.modules.items()):
        if name.startswith("speechbrain.") and type(module).__name__ in STAND_INS:
            del sys.modules[name]
    return ECAPA_TDNN


class ECAPATDNN(Classifier):
    """Desplanques et al., "ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN Based Speaker Verification".

    Interspeech 2020. A time-delay layer, three Res2Net blocks with squeeze and excitation, the three aggregated, attentive statistics over time.
    channels: 512 or 1024, the paper's two sizes. dimensions: of the embedding. scale: of the head's cosines.
    The network is speechbrain's. Ours differs from the paper in the features (log-mel bands, as in speechbrain's recipe, not MFCC) and in the margin,
    which the recipe subtracts from the cosine and not from the angle. From speechbrain it differs in nothing but this: its last batch normalisation
    takes batches of a single utterance too. As in speechbrain, convolutions mirror the end of the batch, so the amount of padding (not what is
    in it) changes the last frames a little; means and attention leave it out.
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
        # speechbrain multiplies by the number of frames again and counts whole numbers below: half a frame less survives the rounding in between.
        shares = (self.frontend.frames(lengths).to(features.dtype) - 0.5) / frames
        embedding = self.network(features.transpose(1, 2), shares)[:, 0]
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        network = self.network
        return [*network.blocks, network.mfa, network.asp, network.asp_bn, network.fc, self.head]
