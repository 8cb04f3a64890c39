"""Rollout of a bidirectional generator: the whole clip as one block, without a cache (Self-Forcing-Plus)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.schedule import warp_steps
from harness.models.condition import Condition
from harness.rollout.block import denoise_block


def bidirectional_rollout(
    model: nn.Module,
    noise: Tensor,  # [B, C, F, H, W]
    condition: Condition,
    config: RolloutConfig,
    rng: torch.Generator,
    exit_step: int,
) -> Tensor:
    """Denoise all frames together `exit_step` times without gradient and once with it. Returns `[B, C, F, H, W]`."""
    steps = warp_steps(config.denoising_steps, config.shift)
    return denoise_block(model, noise, condition, steps, exit_step, rng, with_gradient=True)
