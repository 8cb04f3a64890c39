"""A video of any length, block by block: what the verb `sample` and the pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from attrs import evolve
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.models.condition import Condition
from harness.rollout.stream import Stream

BlockNoise = Callable[[int, int], Tensor]  # of the latent frames start … end − 1, [B, C, end − start, h, w]


def whole_blocks(frames: int, config: RolloutConfig) -> list[tuple[int, int]]:
    """The blocks (start, end) that make at least `frames` latent frames, the last one as long as in training.

    A given first frame is no block: the first one begins behind it.
    """
    block = config.frames_per_block
    return [(start, start + block) for start in range(int(config.first_frame_given), frames, block)]


def buffer_for(frames: int, config: RolloutConfig) -> int:
    """Frames that the cache of a video of `frames` latent frames has to hold at once, the current block's included."""
    if config.window == -1:
        return frames
    return min(frames, max(config.window, config.sink + config.frames_per_block))


def noise_by_block(first: Tensor, draw: BlockNoise) -> BlockNoise:
    """The noise `first` `[B, C, F, h, w]` for the frames that it has, and what `draw` gives for those after it."""
    have = first.shape[2]

    def noise(start: int, end: int) -> Tensor:
        known = first[:, :, start:end]
        if end <= have:
            return known
        drawn = draw(max(start, have), end).to(first)
        return drawn if start >= have else torch.cat([known, drawn], dim=2)

    return noise


@torch.no_grad()
def made_blocks(
    model: nn.Module,
    condition: Condition,
    config: RolloutConfig,  # causal
    blocks: Iterable[tuple[int, int]],
    noise: BlockNoise,
    rng: torch.Generator,  # CPU; for the fresh noise between steps, and that of the context
    switches: Mapping[int, Condition],  # by the first latent frame of the block that is to be made under it
    buffer_frames: int | None = None,
) -> Iterator[Tensor]:
    """Yield each block's latents `[B, C, f, H, W]` as soon as it is made; a given first frame comes first, alone.

    Noise is asked for when its block is due, so nothing grows with the video but what the window lets see. A block is
    made with all steps, without gradient.

    Raises `ValueError` when the first frame is to be given and `condition` has none.
    """
    stream = Stream(condition, evolve(config, kv_grad="detach"), buffer_frames)
    given = config.first_frame_given
    for start, end in blocks:
        drawn = noise(start, end)
        if given:
            given = False
            yield stream.give_first(drawn)
        if start in switches:
            stream.switch(model, switches[start], rng)
        yield stream.block(model, drawn, rng)
