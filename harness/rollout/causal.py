"""Self-forcing rollout of a causal generator (arXiv 2506.08009): each block sees its own past through the KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.flow import add_noise
from harness.diffusion.schedule import TIMESTEPS, warp_steps
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.rollout.block import denoise_block, draw_noise, full_timestep
from harness.rollout.given_frame import given_frame


def block_spans(frames: int, frames_per_block: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Cut the latent frames from `first` to `frames` into blocks, (start, end) pairs; the last one is shorter where
    they do not divide.
    """
    for start in range(first, frames, frames_per_block):
        yield start, min(start + frames_per_block, frames)


def generated_spans(frames: int, config: RolloutConfig) -> Iterator[tuple[int, int]]:
    """The blocks that a causal generator makes of a clip: all of it, or what follows a given first frame."""
    return block_spans(frames, config.frames_per_block, first=int(config.first_frame_given))


def first_gradient_frame(frames: int, config: RolloutConfig) -> int:
    """Give the first frame that carries gradient: where the first block of the last `gradient_frames` frames starts.

    At least the last block has gradient. Frames before are made without, as the reference does for long rollouts.
    """
    earliest = frames - config.gradient_frames
    starts = [start for start, _ in generated_spans(frames, config)]
    return next((start for start in starts if start >= earliest), starts[-1] if starts else frames)


def noised_context(x0: Tensor, context_sigma: float, rng: torch.Generator) -> Tensor:
    """Give what later blocks see of a finished block `[B, C, f, H, W]`: detached, at the context's noise level."""
    context = x0.detach()
    if context_sigma > 0.0:
        context = add_noise(context, draw_noise(context, rng), full_timestep(context_sigma, context))
    return context


def commit_block(
    model: nn.Module,
    context: Tensor,  # [B, C, f, H, W], from `noised_context`
    condition: Condition,
    cache: KVCache,
    frame_offset: int,
    context_sigma: float,
) -> None:
    """Write a finished block's keys and values into the cache: one more pass, which sends no gradient.

    With `kv_grad: straight_through` the cache joins what it stores to the exit step's graph, for which gradients have
    to be enabled.
    """
    t = full_timestep(TIMESTEPS * context_sigma, context)
    with torch.set_grad_enabled(torch.is_grad_enabled() and cache.kv_grad == "straight_through"):
        predict_velocity(model, context, t, condition, cache=cache, write_cache=True, frame_offset=frame_offset)


@torch.no_grad()
def commit_given(model: nn.Module, given: Tensor, condition: Condition, cache: KVCache) -> None:
    """Write a given first frame `[B, C, 1, H, W]` into the empty cache: clean, as frame 0; no gradient comes back."""
    commit_block(model, given, condition, cache, 0, 0.0)


def causal_blocks(
    model: nn.Module,
    noise: Tensor,  # [B, C, F, H, W]
    condition: Condition,
    config: RolloutConfig,
    rng: torch.Generator,
    exit_steps: Sequence[int],  # one per generated block
) -> Iterator[Tensor]:
    """Generate a clip block by block: yields each one's latents `[B, C, f, H, W]` as soon as it is made.

    A given first frame comes first, as it is; its keys and values enter the cache at t = 0, whatever `context_sigma`
    is. Later blocks see what the commit pass wrote of earlier ones, and send no gradient through it. The last block is
    not committed. Whether gradients are kept is for the caller to say, at each step of the iteration.

    Raises `ValueError` when the first frame is to be given and `condition` has none.
    """
    steps = warp_steps(config.denoising_steps, config.shift)
    cache = KVCache(window=config.window, sink=config.sink, kv_grad=config.kv_grad)
    frames = noise.shape[2]
    given = given_frame(condition, noise, config.first_frame_given)
    if given is not None:
        yield given
        commit_given(model, given, condition, cache)
    gradient_from = first_gradient_frame(frames, config)
    for (start, end), exit_step in zip(generated_spans(frames, config), exit_steps, strict=True):
        x0 = denoise_block(
            model,
            noise[:, :, start:end],
            condition,
            steps,
            exit_step,
            rng,
            with_gradient=start >= gradient_from,
            cache=cache,
            frame_offset=start,
        )
        yield x0
        if end < frames:
            context = noised_context(x0, config.context_sigma, rng)
            commit_block(model, context, condition, cache, start, config.context_sigma)


def causal_rollout(
    model: nn.Module,
    noise: Tensor,  # [B, C, F, H, W]
    condition: Condition,
    config: RolloutConfig,
    rng: torch.Generator,
    exit_steps: Sequence[int],  # one per generated block
) -> Tensor:
    """Generate a clip block by block, with gradient at each block's exit step only. Returns `[B, C, F, H, W]`.

    See `causal_blocks`.
    """
    return torch.cat(list(causal_blocks(model, noise, condition, config, rng, exit_steps)), dim=2)
