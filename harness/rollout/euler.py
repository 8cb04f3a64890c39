"""Deterministic sampling by Euler's method, with guidance: how teachers and multi-step causal models are run."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.schedule import TIMESTEPS, sampling_sigmas
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.rollout.block import full_timestep
from harness.rollout.causal import generated_spans
from harness.rollout.given_frame import beside_given, given_frame
from harness.rollout.guided import for_both, guided_velocity, with_unconditional
from harness.rollout.stream import cache_for, commit_given


@torch.no_grad()
def euler_sample(
    model: nn.Module,
    noise: Tensor,
    condition: Condition,
    *,
    steps: int,
    shift: float,
    cfg_scale: float,
    first_frame_given: bool = False,
) -> Tensor:
    """Integrate the flow of a bidirectional model from noise `[B, C, F, H, W]` to data in `steps` Euler steps.

    Guidance doubles the batch of each step; at `cfg_scale` 1 there is none. With `first_frame_given` frame 0 is
    `condition.first_latent` throughout, at t = 0, and only the others are integrated: for a model that was trained so.
    Returns `[B, C, F, H, W]`.

    Raises `ValueError` when the first frame is to be given and `condition` has none.
    """
    both = with_unconditional(condition, cfg_scale)
    given = given_frame(condition, noise, first_frame_given)
    first = 0 if given is None else 1
    x = noise[:, :, first:]
    for sigma, next_sigma in pairwise(sampling_sigmas(steps, shift)):
        seen, t = beside_given(given, x, full_timestep(TIMESTEPS * sigma, x))
        velocity = guided_velocity(model, seen, t, both, cfg_scale)
        x = x + (next_sigma - sigma) * velocity[:, :, first:]
    return x if given is None else torch.cat([given, x], dim=2)


@torch.no_grad()
def causal_euler_sample(
    model: nn.Module, noise: Tensor, condition: Condition, config: RolloutConfig, *, steps: int, cfg_scale: float
) -> Tensor:
    """Integrate the flow of a causal model block by block, each given the finished ones through the KV cache.

    Window, sink, shift and block length come from `config`; finished blocks enter the cache clean. The conditional and
    the unconditional half keep a past each, in one cache of batch 2B. A given first frame enters it first. Returns
    `[B, C, F, H, W]`.

    Raises `ValueError` when the first frame is to be given and `condition` has none.
    """
    both = with_unconditional(condition, cfg_scale)
    sigmas = sampling_sigmas(steps, config.shift)
    cache = cache_for(config)
    frames = noise.shape[2]
    given = given_frame(condition, noise, config.first_frame_given)
    blocks = []
    if given is not None:
        blocks.append(given)
        commit_given(model, for_both(given, cfg_scale), both, cache)
    for start, end in generated_spans(frames, config):
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
