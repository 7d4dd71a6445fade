"""KWT, the keyword transformer: attention over the frames of an utterance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechforget.errors import UserError
from speechforget.models.classifier import Classifier, Output
from speechforget.models.layers.frontend import MFCC

PER_HEAD = 64  # dimensions of each attention head, in all three of the paper's sizes (table 1)
DEVIATION = 0.02  # of the truncated normal distribution that class token, positions and head start from (authors' code)


class Tokens(nn.Module):
    """Turn frames into vectors, add their positions, and put a class token in front.

    Positions are learned for `frames` frames. A shorter utterance uses the first ones; for a longer one, all of them
    are interpolated to its length.
    """

    def __init__(self, coefficients: int, width: int, frames: int) -> None:
        super().__init__()
        self.projection = nn.Linear(coefficients, width)
        self.first = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=DEVIATION))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, frames + 1, width), std=DEVIATION))

    def forward(self, features: Tensor, counts: Tensor) -> Tensor:
        """Map (batch, coefficients, frames), with counts (batch,) valid frames, to (batch, 1 + frames, width)."""
        x = self.projection(features.transpose(1, 2)) + self.places(counts, features.shape[2])
        return torch.cat([(self.first + self.positions[:, :1]).expand(len(x), -1, -1), x], dim=1)

    def places(self, counts: Tensor, frames: int) -> Tensor:
        """Give the positions of frames, (1 or batch, frames, width)."""
        table = self.positions[0, 1:]
        last = len(table) - 1
        if frames <= len(table):
            return table[None, :frames]
        shrink = (last / (counts - 1).clamp(min=last)).to(table.dtype)
        places = (torch.arange(frames, device=table.device) * shrink[:, None]).clamp(max=last)
        before = places.floor().long()
        return torch.lerp(table[before], table[(before + 1).clamp(max=last)], (places - before)[:, :, None])


class Attention(nn.Module):
    """Apply multi-head self-attention that leaves masked frames out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // PER_HEAD
        self.inwards = nn.Linear(width, 3 * width, bias=False)
        self.outwards = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x (batch, tokens, width) to the same shape; mask (batch, 1, 1, tokens) is true for valid tokens."""
        query, key, value = self.inwards(x).unflatten(2, (3, self.heads, PER_HEAD)).permute(2, 0, 3, 1, 4)
        likeness = (query @ key.transpose(2, 3)) * PER_HEAD**-0.5
        shares = likeness.masked_fill(~mask, float("-inf")).softmax(dim=3)
        return self.outwards((shares @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Apply attention, then two linear layers; add each to its input and normalise afterwards."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.attention_norm = Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.mlp_norm = nn.LayerNorm(width)
        self.dropouts = nn.ModuleList([nn.Dropout(dropout), nn.Dropout(dropout)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, tokens, width) to the same shape."""
        x = self.attention_norm(x + self.dropouts[0](self.attention(x, mask)))
        return self.mlp_norm(x + self.dropouts[1](self.mlp(x)))


class KWT(Classifier):
    """Classify by KWT-1, 2 or 3: Berg et al., "Keyword Transformer: A Self-Attention Model for Keyword Spotting".

    Interspeech 2021. Every frame of 40 MFCC is a token; `depth` blocks with the norm after each part; the class token's
    last state is the embedding. width: 64, 128 or 192 for KWT-1, 2 or 3, with one head per 64 dimensions and four times
    as many dimensions inside. dropout: 0 in the paper. frames: number of learned positions (101: one second with this
    frontend, 98 with the authors'), see `Tokens` for other lengths. Ours differs: frames beyond an utterance's end are
    masked; the authors attend to them. Raises UserError for a width that is not a multiple of 64.
    """

    frontend: MFCC

    def __init__(
        self,
        classes: int,
        sample_rate: int,
        *,
        width: int = 64,
        depth: int = 12,
        coefficients: int = 40,
        bands: int = 80,
        frames: int = 101,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % PER_HEAD or width <= 0:
            raise UserError(
                f"KWT needs a multiple of {PER_HEAD} dimensions, not {width}: set model.width to 64, 128 or 192."
            )
        self.frontend = MFCC(sample_rate, coefficients, bands=bands, window=30.0)
        self.tokens = Tokens(coefficients, width, frames)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=DEVIATION)
        nn.init.zeros_(self.head.bias)

    def classify(self, features: Tensor, lengths: Tensor) -> Output:
        """See `Classifier`."""
        counts = self.frontend.frames(lengths)
        mask = (torch.arange(features.shape[2] + 1, device=counts.device) <= counts[:, None])[
            :, None, None
        ]  # all tokens attend to the class token
        x = self.tokens(features, counts)
        for block in self.blocks:
            x = block(x, mask)
        embedding = x[:, 0]
        return Output(self.head(embedding), embedding)

    def layers(self) -> list[nn.Module]:
        """See `Classifier`."""
        return [self.tokens, *self.blocks, self.head]
