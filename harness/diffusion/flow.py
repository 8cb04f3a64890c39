"""Flow matching on a straight line between data and noise (arXiv 2209.03003), as Wan (2503.20314) uses it.

`x_t = (1 − sigma)·x0 + sigma·noise`; the network predicts the velocity `v = noise − x0`, so `x0 = x_t − sigma·v`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expand_like(sigma: Tensor, x: Tensor) -> Tensor:
    """View a level per sample `[B]`, or per frame `[B, F]`, so that it broadcasts over `x` `[B, C, F, H, W]`."""
    if sigma.ndim == 2:
        return sigma[:, None, :, None, None]
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Noise `x0` `[B, C, F, H, W]` to level `sigma` `[B]` or `[B, F]`; the result has the type of `x0`."""
    level = expand_like(sigma, x0)
    return ((1.0 - level) * x0 + level * noise).to(x0.dtype)


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Give the velocity that takes `x0` to `noise`: what the network learns."""
    return noise - x0


def velocity_to_x0(velocity: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    """Give the clean latent that a velocity implies, `x_t − sigma·v`; `sigma` `[B]` or `[B, F]`.

    Computed in float64, as the reference does (with bf16 networks float32 is not enough at small sigma); the result
    has the type of `x_t`.
    """
    level = expand_like(sigma.to(torch.float64), x_t)
    return (x_t.to(torch.float64) - level * velocity.to(torch.float64)).to(x_t.dtype)
