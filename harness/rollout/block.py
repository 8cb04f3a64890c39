"""Few-step denoising of one block of frames: predict it clean, renoise it to the next step, until the exit step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.diffusion.flow import add_noise, velocity_to_x0
from harness.diffusion.schedule import TIMESTEPS
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.rollout.given_frame import beside_given


def draw_noise(like: Tensor, rng: torch.Generator) -> Tensor:
    """Draw unit noise of the shape, type and device of `like` from a CPU generator, so equal on every device."""
    return torch.randn(like.shape, generator=rng, dtype=torch.float32).to(device=like.device, dtype=like.dtype)


def full_timestep(t: float, like: Tensor) -> Tensor:
    """Give the timestep `t` (0…1000) for each sample of `like`: float32 `[B]`."""
    return torch.full((like.shape[0],), t, dtype=torch.float32, device=like.device)


def predict_x0(
    model: nn.Module,
    x_t: Tensor,
    t: float,
    condition: Condition,
    cache: KVCache | None = None,
    frame_offset: int = 0,
    given: Tensor | None = None,
) -> Tensor:
    """Denoise `x_t` `[B, C, F, H, W]` at timestep `t` in one step, given what the cache holds; writes nothing to it.

    With a `given` first frame `[B, C, 1, H, W]` the network sees it before `x_t`, clean at t = 0; it is not part of
    the result.
    """
    timestep = full_timestep(t, x_t)
    x, per_frame = beside_given(given, x_t, timestep)
    velocity = predict_velocity(model, x, per_frame, condition, cache=cache, frame_offset=frame_offset)
    if given is not None:
        velocity = velocity[:, :, 1:]
    return velocity_to_x0(velocity, x_t, timestep / TIMESTEPS)


def denoise_block(
    model: nn.Module,
    noise: Tensor,  # [B, C, f, H, W], the block's own starting noise
    condition: Condition,
    steps: Sequence[float],  # timesteps, from noise down
    exit_step: int,  # index into `steps`: the prediction made there is the result
    rng: torch.Generator,  # CPU; for the fresh noise between steps
    *,
    with_gradient: bool,
    cache: KVCache | None = None,
    frame_offset: int = 0,
    given: Tensor | None = None,  # [B, C, 1, H, W], a clean first frame beside the block, see `predict_x0`
) -> Tensor:
    """Run the steps up to the exit step, the earlier ones without gradient (Self-Forcing, arXiv 2506.08009).

    `with_gradient` lets the exit step carry gradient, where the caller has gradients enabled at all.
    Returns `[B, C, f, H, W]`.
    """
    x_t = noise
    with torch.no_grad():
        for step in range(exit_step):
            x0 = predict_x0(model, x_t, steps[step], condition, cache, frame_offset, given)
            sigma = full_timestep(steps[step + 1] / TIMESTEPS, x0)
            x_t = add_noise(x0, draw_noise(x0, rng), sigma)
    with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
        return predict_x0(model, x_t, steps[exit_step], condition, cache, frame_offset, given)
