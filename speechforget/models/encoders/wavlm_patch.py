"""Make WavLM's attention call its projections. Importing this needs the transformers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention


class ProjectedAttention(WavLMAttention):
    """Call the projections; the library only reads their weights, so it would ignore LoRA's updates in silence."""

    def torch_multi_head_self_attention(
        self, hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
    ) -> Any:
        """Compute the same attention, without the averaged attention weights, which are not used."""
        batch, frames, width = hidden_states.shape
        shape = (batch, frames, self.num_heads, self.head_dim)
        query, key, value = (
            layer(hidden_states).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = gated_position_bias.view(batch, self.num_heads, frames, frames).to(query.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask[:, None, None, :].bool(), -torch.inf)
        attended = scaled_dot_product_attention(query, key, value, bias)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, frames, width)), None


def patch_attention(encoder: nn.Module) -> None:
    """Replace every attention of a WavLM encoder by one that calls its projections; weights keep their names."""
    for module in encoder.modules():
        if type(module) is WavLMAttention:
            module.__class__ = ProjectedAttention
