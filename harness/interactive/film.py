"""A video without an end, made block by block, whose prompt can be changed between two blocks.

Nothing here knows of time, threads or viewers: see `harness.interactive.session`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from harness.config.schema import RolloutConfig
from harness.data.loader import condition_from_texts
from harness.errors import HarnessError
from harness.evaluation.prompts import fixed_noise
from harness.evaluation.streamed import clip_noise
from harness.models.codec import VAE, to_pixels
from harness.models.condition import Condition
from harness.models.frame_decoder import FrameDecoder
from harness.models.text import TextEncoder, encode_prompt
from harness.pipeline.generation import buffer_for, noise_by_block
from harness.rollout.stream import Stream
from harness.seeding import generator_for


@frozen(eq=False)
class Said:
    """A prompt as it was typed, its vectors `[L, D]`, and what is to be said about it (a word that is unknown)."""

    prompt: str
    vectors: Tensor
    notes: tuple[str, ...] = ()


@frozen(eq=False)
class Piece:
    """The frames of a block: uint8 `[F, H, W, 3]`, from frame `start` of the video on; the seconds that it took."""

    start: int
    frames: np.ndarray
    prompt: str
    seed: int
    seconds: float


class PromptReader:
    """Prompts → vectors, from any thread (tokenizers serve one at a time)."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._lock = Lock()

    def read(self, prompt: str) -> Said:
        """Raises HarnessError for an empty prompt, or one of more tokens than the generator reads."""
        prompt = " ".join(prompt.split())
        if not prompt:
            raise HarnessError("an empty prompt: say what the video shows")
        with self._lock:
            encoded = encode_prompt(self.encoder, prompt)
        if encoded.truncated:
            shown = prompt if len(prompt) <= 60 else f"{prompt[:60]}…"
            raise HarnessError(f'"{shown}": longer than {self.encoder.max_length} tokens; say it in fewer words')
        notes = ()
        if encoded.unknown_words:
            notes = (f'"{prompt}": {encoded.unknown_words} of its words were in no training caption',)
        return Said(prompt, encoded.vectors, notes)


def endless(rollout: RolloutConfig, clip_frames: int, asked: Mapping[str, Any]) -> tuple[RolloutConfig, str | None]:
    """The rollout with what is asked for (`window`, `sink`, `rope`, `on_switch`; None: as trained), and a window in any
    case: what sees all its frames cannot go on for ever. And a sentence where one had to be chosen.

    That is the length of a clip as trained (`clip_frames`, latent), with its first block as sink: so the first clip is
    as in training. Positions stay as trained: a generator that learnt absolute ones on short clips repeats its last
    block under relative ones (docs/tried.md).

    Raises HarnessError for a window or a sink that cannot be.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    block, chosen = rollout.frames_per_block, {}
    if "window" not in given and rollout.window == -1:
        window = max(clip_frames, block)
        sink = rollout.sink or (block if 2 * block <= window else 0)
        chosen = {"window": window, "sink": sink}
    values = chosen | given
    window, sink = values.get("window", rollout.window), values.get("sink", rollout.sink)
    if window < block:
        raise HarnessError(
            f"--window {window}: expected at least {block} latent frames, a block; a video without an end cannot see "
            "all its frames"
        )
    if sink < 0 or sink + block > window:
        raise HarnessError(
            f"--sink {sink}: expected 0 to {window - block} latent frames, for the window of {window} counts the sink "
            f"and the block that is made ({block})"
        )
    rollout = evolve(rollout, **values)
    if not chosen:
        return rollout, None
    return rollout, (
        f"trained without a window, which a video without an end needs: it sees {window} latent frames at a time, the "
        f"first {sink} of the video among them (--window and --sink change this)"
    )


class Film:
    """One video of a generator, as `sample` makes it with the same seed, and on from there.

    model, vae    on one device
    condition     what the video is given besides its text: images, positions, for a clip as trained; batch 1
    rollout       causal and with a window, see `endless`
    shape         `(C, F, h, w)` of a clip's latents as trained
    precision     "bf16": the generator computes in it
    """

    def __init__(
        self,
        model: nn.Module,
        vae: VAE,
        condition: Condition,
        rollout: RolloutConfig,
        shape: Sequence[int],
        precision: str = "fp32",
    ) -> None:
        self.model = model
        self.vae = vae
        self.rollout = rollout
        self.shape = tuple(shape)
        self.precision = precision
        self._base = condition
        self._stream: Stream | None = None

    def begin(self, said: Said, seed: int) -> None:
        """Begin a video with a prompt; one that was being made is dropped."""
        rollout = evolve(self.rollout, kv_grad="detach")  # nothing is trained, and buffers carry no gradient
        self._stream = Stream(self._under(said), rollout, buffer_for(rollout.window, rollout))
        self._decoder = FrameDecoder(self.vae)
        self._rng = generator_for(seed, "renoise")
        first = fixed_noise(seed, [0], self.shape).to(self._base.text.device)
        self._noise = noise_by_block(first, clip_noise(seed, [0], first.shape))
        self._prompt, self._seed, self._shown = said.prompt, seed, 0

    @torch.no_grad()
    def switch(self, said: Said) -> None:
        """The blocks from now on show another prompt; what becomes of the cache is the rollout's `on_switch`."""
        with self._computing():
            self._going.switch(self.model, self._under(said), self._rng)
        self._prompt = said.prompt

    @torch.no_grad()
    def next(self) -> Piece:
        """Make a block. A given first frame is a block of its own."""
        stream, started = self._going, time.monotonic()
        start = stream.frames
        noise = self._noise(start, start + self.rollout.frames_per_block)
        with self._computing():
            if start == 0 and self.rollout.first_frame_given:
                latents = stream.give_first(noise)
            else:
                latents = stream.block(self.model, noise, self._rng)
        frames = to_pixels(self._decoder.decode(latents.float().to(next(self.vae.parameters()).dtype)))[0]
        piece = Piece(self._shown, frames, self._prompt, self._seed, time.monotonic() - started)
        self._shown += len(frames)
        return piece

    @property
    def _going(self) -> Stream:
        if self._stream is None:
            raise ValueError("the video has not begun: call begin")
        return self._stream

    def _under(self, said: Said) -> Condition:
        length = self._base.text.shape[1]
        text = condition_from_texts([said.vectors], length, None).text
        return evolve(self._base, text=text.to(self._base.text))

    def _computing(self) -> torch.autocast:
        device = self._base.text.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False)
