"""The noise schedule of Wan (arXiv 2503.20314) and Self-Forcing (2506.08009): shift, tables, few-step lists, weights.

A noise level is a `sigma` in [0, 1]; a timestep is `t = 1000·sigma`, what the network is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

TIMESTEPS = 1000  # sigma 1 in the network's unit, and the length of the training table

Level = TypeVar("Level", float, Tensor)


def shift_sigma(u: Level, shift: float) -> Level:
    """Move the uniform level `u` in [0, 1] toward noise: `s·u / (1 + (s − 1)·u)` (SD3, arXiv 2403.03206, eq. 23).

    Keeps 0 and 1; the result has the type and shape of `u`.
    """
    return shift * u / (1.0 + (shift - 1.0) * u)


@lru_cache(maxsize=16)
def sigma_table(shift: float, steps: int = TIMESTEPS) -> Tensor:
    """Give the training table: `sigma_i = shift(1 − i/steps)`, from pure noise down, without the final 0.

    Returns float64 `[steps]`, shared between callers: do not write into it.
    """
    u = 1.0 - torch.arange(steps, dtype=torch.float64) / steps
    return shift_sigma(u, shift)


def warp_steps(indices: Sequence[int], shift: float) -> tuple[float, ...]:
    """Turn few-step indices (1000 is pure noise, 0 is clean) into timesteps: k becomes `t` of table row `1000 − k`.

    As the reference's `warp_denoising_step`: (1000, 750, 500, 250) at shift 5 gives (1000, 937.5, 833.33, 625).
    """
    return tuple(TIMESTEPS * shift_sigma(k / TIMESTEPS, shift) for k in indices)


@lru_cache(maxsize=16)
def training_weights(shift: float) -> Tensor:
    """Give the bell weights of the flow matching loss over the shifted table, as the reference does; their mean is 1.

    `y = exp(−2((t − 500)/1000)²)`, `y −= min(y)`, `y *= 1000/sum(y)`; zero for pure noise.
    Returns float64 `[1000]`, in the order of `sigma_table(shift)`, shared between callers: do not write into it.
    """
    t = TIMESTEPS * sigma_table(shift)
    y = torch.exp(-2.0 * ((t - TIMESTEPS / 2) / TIMESTEPS) ** 2)
    y = y - y.min()
    return y * (TIMESTEPS / y.sum())


def sampling_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """Give the levels that an ODE sampler of `steps` steps visits: `steps + 1` of them, from 1 down to 0."""
    return (*(shift_sigma(1.0 - i / steps, shift) for i in range(steps)), 0.0)
