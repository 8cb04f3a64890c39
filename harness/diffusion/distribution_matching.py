"""The distribution matching gradient and its surrogate loss (DMD, arXiv 2311.18828, as Self-Forcing uses them)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from harness.diffusion.schedule import TIMESTEPS, shift_sigma


def score_timesteps(u: Tensor, shift: float, min_t: float, max_t: float) -> Tensor:
    """Turn integers `u` `[B]` of [0, 1000) into the timesteps where the scores are compared.

    That is `1000·shift(u/1000)`, clamped. Returns float32 `[B]` in [`min_t`, `max_t`].
    """
    t = TIMESTEPS * shift_sigma(u.to(torch.float64) / TIMESTEPS, shift)
    return t.clamp(min_t, max_t).to(torch.float32)


def dmd_gradient(
    x: Tensor,  # [B, C, F, H, W], the generator's sample
    fake_x0: Tensor,  # the critic's denoised x_t
    real_x0: Tensor,  # the teacher's denoised x_t, guided
    normalize: Literal["sample", "block", "none"],
    frames_per_block: int,
) -> Tensor:
    """Give the direction to descend for `x`: `(fake − real) / mean|x − real|`, with NaN set to 0 (DMD, eq. 7 and 8).

    The mean is over C, F, H, W of each sample; with `block`, over each block of frames (the last one may be shorter),
    as LongLive 2 does; with `none` there is no division. Where a mean is exactly zero nothing is left to move, so its
    gradient is 0 too. Returns `[B, C, F, H, W]` in the type of `x`.
    """
    grad = fake_x0 - real_x0
    if normalize == "none":
        return torch.nan_to_num(grad, posinf=0.0, neginf=0.0)
    distance = (x - real_x0).abs()
    if normalize == "sample":
        scale = distance.mean(dim=(1, 2, 3, 4), keepdim=True)
    else:
        blocks = distance.split(frames_per_block, dim=2)
        means = [block.mean(dim=(1, 2, 3, 4), keepdim=True).expand(-1, -1, block.shape[2], -1, -1) for block in blocks]
        scale = torch.cat(means, dim=2)
    return torch.nan_to_num(grad / scale, posinf=0.0, neginf=0.0)


def dmd_loss(x: Tensor, grad: Tensor) -> Tensor:
    """Give a loss whose gradient in `x` is `grad / numel`: `½·mean((x − sg(x − grad))²)`.

    In float64, as the reference computes it. Its value says nothing about quality. Returns a float64 scalar.
    """
    sample = x.to(torch.float64)
    target = (sample - grad.to(torch.float64)).detach()
    return 0.5 * torch.mean((sample - target) ** 2)
