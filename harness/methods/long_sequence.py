"""Streaming long tuning (LongLive, arXiv 2509.22622, §3.2): one long video, made chunk by chunk over many updates.

An update makes the next frames of the video from what the last update left, by the weights of now. The clip that is
judged are the new frames, and as many before them as fill it. A teacher that was trained on clips expects an image at
the start of one: a clip from the middle of the video begins with its first frame encoded as an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from harness.config.chunks import chunk_lengths, switch_places
from harness.config.schema import LongTuningConfig, RolloutConfig
from harness.methods.draws import Draws
from harness.models.condition import Condition
from harness.rollout.causal import first_gradient_frame, generated_spans
from harness.rollout.few_step import draw_exit_steps, num_blocks
from harness.rollout.stream import Stream


@frozen(eq=False, kw_only=True)
class Clip:
    """What critic and teacher look at.

    x               `[B, C, F, H, W]`
    condition       of its new frames
    exit_steps      of its new blocks
    new_from        first frame that the generator's loss looks at
    gradient_from   first frame that has gradient, at `new_from` or later
    """

    x: Tensor
    condition: Condition
    exit_steps: list[int]
    new_from: int
    gradient_from: int


def draw(choices: range, rng: torch.Generator) -> int:
    """One of them, each as likely as the others."""
    return choices[int(torch.randint(0, len(choices), (), generator=rng))]


class LongSequence:
    """The video of one microbatch; it begins anew, with the prompts at hand, when the next chunk would be too long.

    config     `max_frames` is a number
    rollout    causal, text to video; its window reaches back beyond the first frame of a clip
    frames     length of a clip
    as_image   latents `[B, C, f, H, W]` → the last pixel frame of them as an image's latent `[B, C, 1, H, W]`
    """

    def __init__(
        self, config: LongTuningConfig, rollout: RolloutConfig, frames: int, as_image: Callable[[Tensor], Tensor]
    ) -> None:
        self.config = config
        self.rollout = rollout
        self.frames = frames
        self.as_image = as_image
        self.stream: Stream | None = None
        self.switch_at: int | None = None  # the frame at which this sequence changes its prompt, if it still will

    @property
    def made(self) -> int:
        """Frames of the sequence so far."""
        return 0 if self.stream is None else self.stream.frames

    def extend(self, generator: nn.Module, like: Tensor, condition: Condition, draws: Draws) -> Clip:
        """Make the next chunk; gives the clip that ends with it, in the shape of `like`, with gradient in new frames.

        `condition` is used where a sequence begins or changes its prompt. How the sequence goes on is drawn from
        `draws.shared`, the noise of the new frames from `draws.local`.
        """
        block = self.rollout.frames_per_block
        lengths = chunk_lengths(self.made, self.frames, block, self.config)
        if self.stream is None or not lengths:
            self._begin(condition, draws.shared)
            lengths = chunk_lengths(0, self.frames, block, self.config)
        assert self.stream is not None
        new = draw(lengths, draws.shared)
        past = self.stream.last(self.frames) if self.made else None
        if self.switch_at is not None and self.switch_at < self.made + new:
            self.stream.switch(generator, condition, draws.local)
            self.switch_at = None
        exit_steps = draw_exit_steps(self.rollout, num_blocks(self.rollout, new), draws.shared)
        noise = draws.noise_like(like[:, :, :new])
        gradient_from = first_gradient_frame(new, self.rollout)
        blocks = [
            self.stream.block(
                generator, noise[:, :, start:end], draws.local, exit_step, with_gradient=start >= gradient_from
            )
            for (start, end), exit_step in zip(generated_spans(new, self.rollout), exit_steps, strict=True)
        ]
        x, new_from = torch.cat(blocks, dim=2), self.frames - new
        if past is not None:
            x, new_from = self._with_past(past, x), max(new_from, 1)
        return Clip(
            x=x,
            condition=self.stream.condition,
            exit_steps=exit_steps,
            new_from=new_from,
            gradient_from=max(self.frames - new + gradient_from, new_from),
        )

    def _begin(self, condition: Condition, shared: torch.Generator) -> None:
        self.stream = Stream(condition, self.rollout)
        switches = bool(torch.rand((), generator=shared) < self.config.switch_probability)
        places = switch_places(self.frames, self.rollout.frames_per_block, self.config)
        self.switch_at = draw(places, shared) if switches else None

    def _with_past(self, past: Tensor, new: Tensor) -> Tensor:
        """The last `frames` of past and new ones, the first of them as an image: without gradient, were it new."""
        video = torch.cat([past, new], dim=2)
        first = video.shape[2] - self.frames
        return torch.cat([self.as_image(video[:, :, : first + 1].detach()), video[:, :, first + 1 :]], dim=2)

    def detach(self) -> None:
        """Cut what is carried on from the graph of this update."""
        if self.stream is not None:
            self.stream.detach()

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence stands."""
        stream = None if self.stream is None else self.stream.state_dict()
        return {"stream": stream, "switch_at": self.switch_at}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """Go on from there, on a device."""
        saved = state["stream"]
        self.stream = None if saved is None else Stream.from_state(saved, self.rollout, device)
        self.switch_at = state["switch_at"]
