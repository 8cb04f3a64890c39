"""What a configuration costs, in closed form: forwards, updates, and the numbers that they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import frozen

from harness.config.chunks import mean_sequence
from harness.config.schema import DMDConfig, RolloutConfig, RunConfig


def warped_timesteps(indices: Sequence[int], shift: float) -> list[float]:
    """Timesteps t in 0…1000 of table indices k: `1000·s·u / (1 + (s − 1)·u)`, `u = k/1000` (Wan, arXiv 2503.20314)."""
    return [1000.0 * shift * (k / 1000) / (1 + (shift - 1) * (k / 1000)) for k in indices]


def sampling_forwards(rollout: RolloutConfig, frames: int) -> tuple[int, int]:
    """(denoising, context) forwards of one sampled video of `frames` latent frames: all steps of every block."""
    blocks, context_passes = block_counts(rollout, frames)
    return blocks * len(rollout.denoising_steps), context_passes


def block_counts(rollout: RolloutConfig, frames: int) -> tuple[int, int]:
    """(blocks that are generated, context passes): the last block needs no such pass, a given first frame has one."""
    if rollout.attention == "bidirectional":
        return 1, 0
    given = int(rollout.first_frame_given)
    blocks = math.ceil((frames - given) / rollout.frames_per_block)
    return blocks, blocks - 1 + given


def ema_half_life(decay: float) -> float:
    """Updates after which a weight counts half in the average; 0 when nothing is averaged."""
    return math.log(0.5) / math.log(decay) if decay > 0 else 0.0


@frozen
class RolloutCost:
    """Denoiser forwards of one rollout of the generator, averaged over exit steps."""

    blocks: float
    steps_per_block: float
    context_passes: float  # write a finished block, or a given first frame, into the cache; the last block needs none

    @property
    def forwards(self) -> float:
        """Denoising steps and context passes together."""
        return self.blocks * self.steps_per_block + self.context_passes


def training_rollout_cost(rollout: RolloutConfig, frames: int) -> RolloutCost:
    """The mean cost of a training rollout of `frames` latent frames."""
    steps = len(rollout.denoising_steps)
    mean_steps = float(steps) if rollout.exit_step == "last" else (steps + 1) / 2
    blocks, context_passes = block_counts(rollout, frames)
    return RolloutCost(blocks=blocks, steps_per_block=mean_steps, context_passes=context_passes)


def long_rollout_cost(config: RunConfig) -> RolloutCost:
    """The mean cost of what an update of long tuning adds to its sequence.

    Every block but a sequence's last is written to the cache. Where a prompt changes, what of the window is run again
    is not counted: it depends on the place.
    """
    chunks, frames = mean_sequence(config.frames, config.rollout.frames_per_block, config.long_tuning)
    blocks = frames / chunks / config.rollout.frames_per_block
    clip = training_rollout_cost(config.rollout, config.frames)
    return RolloutCost(blocks=blocks, steps_per_block=clip.steps_per_block, context_passes=blocks - 1 / chunks)


def dmd_updates(dmd: DMDConfig) -> tuple[int, int]:
    """(batches, critic updates): every update has a batch of its own; training ends with the last generator update."""
    critic = dmd.critic_warmup_updates + (dmd.generator_updates - 1) * dmd.critic_updates_per_generator_update
    return critic + dmd.generator_updates, critic


def pixel_frames(latent_frames: int, temporal_factor: int) -> int:
    """Frames of video of so many latent ones: the first is one frame, each later one `temporal_factor`."""
    return 1 + (latent_frames - 1) * temporal_factor
