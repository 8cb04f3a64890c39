"""The one call through which every network is asked for a velocity, and what of a condition a network reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from harness.models.condition import Condition
from harness.models.kv_cache import KVCache


def condition_for(network: torch.nn.Module, condition: Condition) -> Condition:
    """What of `condition` this network reads: a text-to-video one gets neither image tokens nor `y`.

    A generator that is given the image as its first frame may be such a network, while critic and teacher read it.
    """
    if condition.image_tokens is None and condition.y is None:
        return condition
    if cast(Any, network).config["image_dim"] is not None:
        return condition
    return condition.without_image_inputs()


def predict_velocity(
    model: torch.nn.Module,
    x_t: torch.Tensor,
    t: torch.Tensor,
    condition: Condition,
    *,
    cache: KVCache | None = None,
    write_cache: bool = False,
    frame_offset: int = 0,
    frames_per_block: int | Sequence[int] | None = None,
    clean: torch.Tensor | None = None,
    clean_t: torch.Tensor | None = None,
) -> torch.Tensor:
    """Velocity `v = ε − x0` of `x_t`, `[B, C, F, H, W]`, in the dtype of `x_t`.

    `model` is called through `__call__`, so that FSDP and checkpointing hooks run. Any module that takes
    `WanTransformer3DModel`'s forward arguments is a denoiser; further arguments are passed only when they are used.

    x_t                `[B, C, F, H, W]` noisy latent; with `cache`, one block of it
    t                  `[B]`, or `[B, F]` with one per frame, in 0…1000 (float32: never cast it to bf16)
    cache              attend to the cached frames too; written only with `write_cache`
    write_cache        the commit pass: store keys and values of this block. The head is skipped, the result is NaN
    frame_offset       index of the first frame of `x_t` in the video (RoPE position; `y` and `positions` are cut to
                       these frames, and go on as their last frame after their end: nothing is given there)
    frames_per_block   block-causal attention over `x_t` (diffusion forcing); `(first, rest)` gives the first block its
                       own size
    clean              `[B, C, F, H, W]`: with `frames_per_block`, teacher forcing over [clean ‖ noisy]; the velocity is
                       that of the noisy half
    clean_t            timestep of the clean frames, `[B]` or `[B, F]`; 0 by default

    The input channels are the noisy latent, then `y`, then `positions`, as far as the condition has them.

    Raises `ValueError` when the arguments contradict each other.
    """
    arguments: dict[str, Any] = {
        "hidden_states": _with_channels(x_t, condition, frame_offset),
        "timestep": t,
        "encoder_hidden_states": condition.text,
        "return_dict": False,
    }
    if condition.image_tokens is not None:
        arguments["encoder_hidden_states_image"] = condition.image_tokens
    if cache is not None:
        arguments |= {"cache": cache, "write_cache": write_cache}
    elif write_cache:
        raise ValueError("write_cache needs a cache to write to")
    if frame_offset:
        arguments["frame_offset"] = frame_offset
    if frames_per_block is not None:
        arguments["frames_per_block"] = frames_per_block
    if clean is not None:
        arguments["clean_hidden_states"] = _with_channels(clean, condition, frame_offset)
        if clean_t is not None:
            arguments["clean_timestep"] = clean_t
    velocity = model(**arguments)
    if not isinstance(velocity, torch.Tensor):
        velocity = velocity[0]
    return velocity


def _with_channels(x: torch.Tensor, condition: Condition, frame_offset: int) -> torch.Tensor:
    """Concatenate the frames of `y` and `positions` that belong to `x` on channels, in this order."""
    parts = [x]
    for part in (condition.y, condition.positions):
        if part is not None:
            parts.append(_frames(part, frame_offset, frame_offset + x.shape[2]).to(x.dtype))
    return x if len(parts) == 1 else torch.cat(parts, dim=1)


def _frames(part: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Frames `start … stop − 1` of `[B, C, F, H, W]`; those after the end are the last one."""
    inside = part[:, :, start:stop]
    missing = stop - start - inside.shape[2]
    if not missing:
        return inside
    return torch.cat([inside, part[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
