"""Guided velocities in one call: the conditional and the unconditional half travel as one batch of twice the size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.diffusion.guidance import guide
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache


def with_unconditional(condition: Condition, cfg_scale: float) -> Condition:
    """Give the condition of a guided call: conditional, then unconditional, along the batch; unchanged at scale 1."""
    return condition if cfg_scale == 1.0 else Condition.cat([condition, condition.unconditional()])


def for_both(x: Tensor, cfg_scale: float) -> Tensor:
    """Repeat the batch of `x` for the two halves of a guided call; unchanged at `cfg_scale` 1."""
    return x if cfg_scale == 1.0 else torch.cat([x, x])


def guided_velocity(
    model: nn.Module,
    x_t: Tensor,  # [B, C, F, H, W]
    t: Tensor,  # [B] or [B, F], 0…1000
    both: Condition,  # from `with_unconditional`
    cfg_scale: float,
    cache: KVCache | None = None,
    frame_offset: int = 0,
) -> Tensor:
    """Predict the guided velocity `[B, C, F, H, W]` in one forward pass, of batch 2B, or B where `cfg_scale` is 1."""
    velocity = predict_velocity(
        model, for_both(x_t, cfg_scale), for_both(t, cfg_scale), both, cache=cache, frame_offset=frame_offset
    )
    if cfg_scale == 1.0:
        return velocity
    cond, uncond = velocity.chunk(2)
    return guide(cond, uncond, cfg_scale)
