"""Deterministic sampling by Euler's method, with guidance: how teachers and multi-step causal models are run."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.schedule import TIMESTEPS, sampling_sigmas
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.rollout.block import full_timestep
from harness.rollout.causal import block_spans
from harness.rollout.guided import for_both, guided_velocity, with_unconditional


@torch.no_grad()
def euler_sample(
    model: nn.Module, noise: Tensor, condition: Condition, *, steps: int, shift: float, cfg_scale: float
) -> Tensor:
    """Integrate the flow of a bidirectional model from noise `[B, C, F, H, W]` to data in `steps` Euler steps.

    Guidance doubles the batch of each step; at `cfg_scale` 1 there is none. Returns `[B, C, F, H, W]`.
    """
    both = with_unconditional(condition, cfg_scale)
    x = noise
    for sigma, next_sigma in pairwise(sampling_sigmas(steps, shift)):
        velocity = guided_velocity(model, x, full_timestep(TIMESTEPS * sigma, x), both, cfg_scale)
        x = x + (next_sigma - sigma) * velocity
    return x


@torch.no_grad()
def causal_euler_sample(
    model: nn.Module, noise: Tensor, condition: Condition, config: RolloutConfig, *, steps: int, cfg_scale: float
) -> Tensor:
    """Integrate the flow of a causal model block by block, each given the finished ones through the KV cache.

    Window, sink, shift and block length come from `config`; finished blocks enter the cache clean. The conditional and
    the unconditional half keep a past each, in one cache of batch 2B. Returns `[B, C, F, H, W]`.
    """
    both = with_unconditional(condition, cfg_scale)
    sigmas = sampling_sigmas(steps, config.shift)
    cache = KVCache(window=config.window, sink=config.sink)
    frames = noise.shape[2]
    blocks = []
    for start, end in block_spans(frames, config.frames_per_block):
        x = noise[:, :, start:end]
        for sigma, next_sigma in pairwise(sigmas):
            t = full_timestep(TIMESTEPS * sigma, x)
            x = x + (next_sigma - sigma) * guided_velocity(model, x, t, both, cfg_scale, cache, start)
        blocks.append(x)
        if end < frames:
            clean = for_both(x, cfg_scale)
            predict_velocity(
                model, clean, full_timestep(0.0, clean), both, cache=cache, write_cache=True, frame_offset=start
            )
    return torch.cat(blocks, dim=2)
