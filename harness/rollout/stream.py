"""A video that goes on: block after block of a causal generator from one cache, in bounded memory (with a window).

LongLive, arXiv 2509.22622: window and sink (§3.3), and KV recache where the prompt changes (§3.1): the cached frames
were made under the old prompt, and would hold the video to it.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import asdict, evolve, frozen
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.diffusion.flow import add_noise
from harness.diffusion.schedule import TIMESTEPS, warp_steps
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.rollout.block import denoise_block, draw_noise, full_timestep
from harness.rollout.given_frame import given_frame


def cache_for(config: RolloutConfig, buffer_frames: int | None = None) -> KVCache:
    """An empty cache with the rollout's settings. Raises `HarnessError` for a sink that fills the window."""
    return KVCache(
        window=config.window, sink=config.sink, rope=config.rope, kv_grad=config.kv_grad, buffer_frames=buffer_frames
    )


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


@frozen(eq=False)
class _Made:
    """A block of the video `[B, C, f, H, W]`, detached, its first frame, and whether it was given: later blocks see a
    given one clean, whatever the context's noise.
    """

    start: int
    x0: Tensor
    given: bool

    @property
    def end(self) -> int:
        return self.start + self.x0.shape[2]

    def since(self, frame: int) -> _Made:
        return self if frame == self.start else evolve(self, start=frame, x0=self.x0[:, :, frame - self.start :])


class Stream:
    """One batch of videos that are made block by block, for as long as one asks.

    The generator is no part of it: training changes the weights between two blocks, and a saved stream goes on under
    whatever weights it is given.

    condition       of the frames to come; `y` and `positions` go on as their last frame after their end
    config          a causal rollout
    buffer_frames   see `KVCache`: room for so many frames, for sampling
    """

    def __init__(self, condition: Condition, config: RolloutConfig, buffer_frames: int | None = None) -> None:
        self.condition = condition
        self.config = config
        self.cache = cache_for(config, buffer_frames)
        self.steps = warp_steps(config.denoising_steps, config.shift)
        self.frames = 0  # made so far, a given first one included
        self._made: tuple[_Made, ...] = ()  # the blocks of the last `window` frames, which a recache runs again
        self._waiting: _Made | None = None  # committed when the next block is asked for

    def give_first(self, like: Tensor) -> Tensor:
        """Begin with the condition's first latent, in the type of `like`: later blocks see it clean, as frame 0.
        Returns it `[B, C, 1, H, W]`.

        Raises `ValueError` when the condition has none, or the video has begun.
        """
        if self.frames:
            raise ValueError("a given frame is the first one; this video has begun")
        given = given_frame(self.condition, like, True)
        assert given is not None
        self._waiting = self._remember(given, given=True)
        return given

    def block(
        self,
        model: nn.Module,
        noise: Tensor,  # [B, C, f, H, W]
        rng: torch.Generator,  # CPU; for the fresh noise between steps, and that of the context
        exit_step: int | None = None,  # None: the last one
        *,
        with_gradient: bool = False,
    ) -> Tensor:
        """Make the next block `[B, C, f, H, W]`; before it the one before it is committed."""
        self.commit(model, rng)
        start = self.frames
        x0 = denoise_block(
            model,
            noise,
            self.condition,
            self.steps,
            len(self.steps) - 1 if exit_step is None else exit_step,
            rng,
            with_gradient=with_gradient,
            cache=self.cache,
            frame_offset=start,
        )
        self._waiting = self._remember(x0, given=False)
        return x0

    def commit(self, model: nn.Module, rng: torch.Generator) -> None:
        """Write the block that waits into the cache; it goes on waiting where that fails or is interrupted."""
        if self._waiting is not None:
            self._write(model, self._waiting, rng)
            self._waiting = None

    @torch.no_grad()
    def switch(self, model: nn.Module, condition: Condition, rng: torch.Generator) -> None:
        """Go on under another condition; what happens to the cache is `config.on_switch`.

        `recache` and `recache_keep_sink` run the last frames again under the new condition, block by block, each seeing
        those before it, so that no key or value of the old prompt is left in them. With `recache` the first of these
        frames become the sink; with `recache_keep_sink` the video's own sink stays as it is.
        """
        self.commit(model, rng)
        self.condition = condition
        way = self.config.on_switch
        if way == "keep" or not self._made:
            return
        again = self._to_run_again(beside_sink=way == "recache_keep_sink")
        if way != "recache_keep_sink":
            self.cache.reset()
        elif self.frames > self.config.sink:
            self.cache.rewind(again[0].start)
        for made in again if way != "clear" else ():
            self._write(model, made, rng)

    def last(self, frames: int) -> Tensor:
        """The last latent frames `[B, C, ≤ frames, H, W]` that were made, clean, as far back as the window reaches.

        Raises `ValueError` for a number of frames below 1, or before the first block.
        """
        if frames < 1 or not self._made:
            raise ValueError(f"asked for the last {frames} frames of a video of {self.frames}")
        return torch.cat([made.x0 for made in self._made], dim=2)[:, :, -frames:]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next block depends on besides weights and draws, as plain values and tensors.

        Raises `ValueError` for a stream with `buffer_frames`.
        """
        return {
            "frames": self.frames,
            "cache": self.cache.state_dict(),
            "made": [asdict(made) for made in self._made],
            "waiting": None if self._waiting is None else asdict(self._waiting),
            "condition": asdict(self.condition, recurse=False),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], config: RolloutConfig, device: torch.device | str) -> Stream:
        """Go on from what `state_dict` gave, on a device."""
        stream = cls(Condition(**state["condition"]).to(device), config)
        stream.frames = state["frames"]
        stream.cache.load_state_dict(_to(state["cache"], device))
        stream._made = tuple(_Made(**_to(made, device)) for made in state["made"])
        stream._waiting = None if state["waiting"] is None else _Made(**_to(state["waiting"], device))
        return stream

    def detach(self) -> None:
        """Cut the cache from the graph of the last training step."""
        self.cache.detach()

    def _write(self, model: nn.Module, made: _Made, rng: torch.Generator) -> None:
        if made.given:
            commit_given(model, made.x0, self.condition, self.cache)
            return
        sigma = self.config.context_sigma
        commit_block(model, noised_context(made.x0, sigma, rng), self.condition, self.cache, made.start, sigma)

    def _to_run_again(self, beside_sink: bool) -> tuple[_Made, ...]:
        """The newest frames that fit in the window, or beside the sink, without its own; in their blocks, oldest first.

        The oldest block is cut where it fits in part, so that no frame falls out between it and the sink.
        """
        first = self.config.sink if beside_sink else 0
        begin = first if self.config.window == -1 else max(self.frames - self.config.window + first, first)
        return tuple(made.since(max(made.start, begin)) for made in self._made if made.end > begin)

    def _remember(self, x0: Tensor, *, given: bool) -> _Made:
        made = _Made(self.frames, x0.detach(), given)
        self._made = (*self._made, made)
        self.frames += x0.shape[2]
        if self.config.window != -1:
            self._made = tuple(one for one in self._made if one.end > self.frames - self.config.window)
        return made


def _to(value: Any, device: torch.device | str) -> Any:
    """Every tensor in nested lists and dictionaries, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(part, device) for key, part in value.items()}
    return [_to(part, device) for part in value] if isinstance(value, list) else value
