"""A causal Wan of a size for tests, with weights that make every part of it count."""

from typing import Any

import torch
from torch import nn

from harness.models.causal_wan import CausalWan


def small_wan(kind: type[CausalWan] = CausalWan, **settings: Any) -> CausalWan:
    """Two layers of width 24, the same weights for the same settings; `settings` are those of the network."""
    torch.manual_seed(0)
    network = kind(
        num_attention_heads=2,
        attention_head_dim=12,
        out_channels=4,
        text_dim=6,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        **settings,
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network
