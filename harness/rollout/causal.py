"""Self-forcing rollout of a causal generator (arXiv 2506.08009): each block sees its own past through the KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.models.condition import Condition
from harness.rollout.stream import Stream


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
    stream = Stream(condition, config)
    frames = noise.shape[2]
    if config.first_frame_given:
        yield stream.give_first(noise)
    gradient_from = first_gradient_frame(frames, config)
    for (start, end), exit_step in zip(generated_spans(frames, config), exit_steps, strict=True):
        yield stream.block(model, noise[:, :, start:end], rng, exit_step, with_gradient=start >= gradient_from)


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
