"""Few-step generation from noise, the same code in training and sampling, for both kinds of attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.models.condition import Condition
from harness.rollout.bidirectional import bidirectional_rollout
from harness.rollout.causal import causal_rollout, generated_spans


def num_blocks(config: RolloutConfig, frames: int) -> int:
    """Count the blocks that are generated of a clip of `frames` latent frames: one for a bidirectional generator."""
    return 1 if config.attention == "bidirectional" else len(list(generated_spans(frames, config)))


def draw_exit_steps(config: RolloutConfig, num_blocks: int, shared_rng: torch.Generator) -> list[int]:
    """Draw the index of the step that carries gradient, one per block (Self-Forcing, arXiv 2506.08009, §3.2).

    `uniform` draws one for all blocks, as the reference does. `shared_rng` must be in the same state on every rank: a
    different number of forward passes would make the ranks wait for each other.
    """
    last = len(config.denoising_steps) - 1
    if config.exit_step == "last":
        return [last] * num_blocks
    count = num_blocks if config.exit_step == "uniform_per_block" else 1
    drawn = torch.randint(0, last + 1, (count,), generator=shared_rng).tolist()
    return drawn if count == num_blocks else drawn * num_blocks


def rollout(
    model: nn.Module,
    noise: Tensor,  # [B, C, F, H, W]
    condition: Condition,
    config: RolloutConfig,
    rng: torch.Generator,  # CPU; the fresh noise between steps
    exit_steps: Sequence[int] | None = None,
) -> Tensor:
    """Generate latents `[B, C, F, H, W]` from noise.

    With `exit_steps` (one index per block) this is the training rollout: every block stops at its exit step, which
    alone carries gradient. Without, it samples: all steps, no gradient. Where the first frame is given, frame 0 of the
    result is it, and its noise is not looked at.

    Raises `ValueError` when the first frame is to be given and `condition` has none.
    """
    if exit_steps is None:
        last = len(config.denoising_steps) - 1
        with torch.no_grad():
            return rollout(model, noise, condition, config, rng, [last] * num_blocks(config, noise.shape[2]))
    if config.attention == "bidirectional":
        return bidirectional_rollout(model, noise, condition, config, rng, exit_steps[0])
    return causal_rollout(model, noise, condition, config, rng, exit_steps)
