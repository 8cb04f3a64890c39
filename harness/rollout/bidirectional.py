"""Rollout of a bidirectional generator: the whole clip as one block, without a cache (Self-Forcing-Plus)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.schedule import warp_steps
from harness.models.condition import Condition
from harness.rollout.block import denoise_block
from harness.rollout.given_frame import given_frame


def bidirectional_rollout(
    model: nn.Module,
    noise: Tensor,  # [B, C, F, H, W]
    condition: Condition,
    config: RolloutConfig,
    rng: torch.Generator,
    exit_step: int,
) -> Tensor:
    """Denoise all frames together `exit_step` times without gradient and once with it. Returns `[B, C, F, H, W]`.

    A given first frame stays as it is and stands clean, at t = 0, beside the others in every step.

    Raises `ValueError` when the first frame is to be given and `condition` has none.
    """
    steps = warp_steps(config.denoising_steps, config.shift)
    given = given_frame(condition, noise, config.first_frame_given)
    if given is None:
        return denoise_block(model, noise, condition, steps, exit_step, rng, with_gradient=True)
    x0 = denoise_block(model, noise[:, :, 1:], condition, steps, exit_step, rng, with_gradient=True, given=given)
    return torch.cat([given, x0], dim=2)
