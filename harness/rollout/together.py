"""Several rollouts of one generator as one batch, without gradient.

The generator does not change between two of its updates. The samples of the critic updates in between can be made
together: as many calls as the longest rollout takes alone, instead of the sum of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.flow import add_noise
from harness.diffusion.schedule import TIMESTEPS, warp_steps
from harness.models.condition import Condition
from harness.models.kv_cache import KVCache
from harness.rollout.block import draw_noise, full_timestep, predict_x0
from harness.rollout.cache_rows import CacheRows, Rows
from harness.rollout.causal import generated_spans
from harness.rollout.given_frame import given_frame
from harness.rollout.stream import cache_for, commit_block, commit_given, noised_context


@frozen(eq=False)
class Start:
    """What one rollout starts from; it may have a batch of its own."""

    noise: Tensor  # [B, C, F, H, W]
    condition: Condition
    exit_steps: Sequence[int]  # one per generated block
    rng: torch.Generator  # CPU; for the fresh noise, in the order in which the rollout alone would draw


class _Joined:
    """The condition and the cache of all rollouts, and of those that still go on."""

    def __init__(self, starts: Sequence[Start], cache: KVCache | None) -> None:
        self.sizes = [start.noise.shape[0] for start in starts]
        # The unconditional text is not read by a rollout.
        self.condition = Condition.cat([evolve(start.condition, unconditional_text=None) for start in starts])
        self.cache = cache
        self._parts: dict[tuple[int, ...], tuple[Condition, KVCache | None]] = {}

    def part(self, active: tuple[int, ...]) -> tuple[Condition, KVCache | None]:
        """Condition and cache of the rollouts with these numbers; the same objects each time."""
        if len(active) == len(self.sizes):
            return self.condition, self.cache
        if active not in self._parts:
            rows = self._rows(active)
            own = self.condition.select(rows)
            cache = None if self.cache is None else CacheRows(self.cache, rows, self.condition, own)
            self._parts[active] = own, cache
        return self._parts[active]

    def _rows(self, active: tuple[int, ...]) -> Rows:
        if active == tuple(range(len(active))):
            return slice(0, sum(self.sizes[: len(active)]))
        pieces = torch.arange(sum(self.sizes)).split(self.sizes)
        return torch.cat([pieces[number] for number in active])


@torch.no_grad()
def rollouts_together(model: nn.Module, starts: Sequence[Start], config: RolloutConfig) -> list[Tensor]:
    """Generate the clips `[B, C, F, H, W]` of all `starts`, each the one that `rollout` would give it alone.

    To rounding: a larger batch may be summed in another order. All clips have as many frames. A rollout that has
    reached its exit step leaves the denoising passes of a block; the commit of clean keys and values is one pass for
    all. The number of passes depends on the exit steps alone.

    Raises `ValueError` when the first frame is to be given and a condition has none.
    """
    order = sorted(range(len(starts)), key=lambda number: tuple(starts[number].exit_steps), reverse=True)
    ordered = [starts[number] for number in order]  # so that those that go on come first: rows are then views
    frames = ordered[0].noise.shape[2]
    if config.attention == "causal":
        cache = cache_for(config)
        spans = list(generated_spans(frames, config))
    else:
        cache, spans = None, [(int(config.first_frame_given), frames)]
    joined = _Joined(ordered, cache)
    blocks: list[list[Tensor]] = []
    given = given_frame(joined.condition, ordered[0].noise, config.first_frame_given)
    if given is not None:
        blocks.append(list(given.split(joined.sizes)))
        if cache is not None:
            commit_given(model, given, joined.condition, cache)
    for block, (first, end) in enumerate(spans):
        blocks.append(_denoise(model, ordered, joined, config, block, (first, end)))
        if cache is not None and end < frames:
            contexts = [
                noised_context(x0, config.context_sigma, start.rng)
                for x0, start in zip(blocks[-1], ordered, strict=True)
            ]
            commit_block(model, torch.cat(contexts), joined.condition, cache, first, config.context_sigma)
    clips: list[Tensor] = [torch.empty(0)] * len(starts)
    for number, pieces in zip(order, zip(*blocks, strict=True), strict=True):
        clips[number] = torch.cat(pieces, dim=2)
    return clips


def _denoise(
    model: nn.Module,
    starts: Sequence[Start],
    joined: _Joined,
    config: RolloutConfig,
    block: int,
    span: tuple[int, int],
) -> list[Tensor]:
    """One block of every rollout, each stopped at its own exit step."""
    steps = warp_steps(config.denoising_steps, config.shift)
    first, end = span
    x_t = {number: start.noise[:, :, first:end] for number, start in enumerate(starts)}  # of those that go on
    finished: dict[int, Tensor] = {}
    for step, t in enumerate(steps):
        condition, cache = joined.part(tuple(x_t))
        x = torch.cat(list(x_t.values()))
        beside = None if cache is not None else given_frame(condition, x, config.first_frame_given)
        x0 = predict_x0(model, x, t, condition, cache, 0 if beside is not None else first, beside)
        parts = dict(zip(x_t, x0.split([len(x) for x in x_t.values()]), strict=True))
        x_t = {}
        for number, part in parts.items():
            start = starts[number]
            if start.exit_steps[block] == step:
                finished[number] = part
            else:
                sigma = full_timestep(steps[step + 1] / TIMESTEPS, part)
                x_t[number] = add_noise(part, draw_noise(part, start.rng), sigma)
        if not x_t:
            break
    return [finished[number] for number in range(len(starts))]
