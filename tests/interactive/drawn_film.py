"""A film without a network, and the reader of its prompts."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from harness.errors import HarnessError
from harness.interactive.film import Piece, Said


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition. Fails when it does not come."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def read(prompt: str) -> Said:
    """As `PromptReader.read`, without an encoder."""
    if not prompt.strip():
        raise HarnessError("an empty prompt: say what the video shows")
    return Said(prompt, torch.zeros(1, 1), ("strange",) if "strange" in prompt else ())


class Drawn:
    """A film of blocks of four frames, each of one color: its first value is the frame's number. `calls` is what was
    asked of it.
    """

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.seconds, self.fails_at = seconds, fails_at
        self.error = error or HarnessError("the film broke")
        self.calls: list = []
        self.blocks = 0  # made, of all videos

    def begin(self, said: Said, seed: int) -> None:
        self.calls.append(("begin", said.prompt, seed))
        self.prompt, self.seed, self.start = said.prompt, seed, 0

    def switch(self, said: Said) -> None:
        self.calls.append(("switch", said.prompt, self.start))
        self.prompt = said.prompt

    def next(self) -> Piece:
        time.sleep(self.seconds)
        if self.fails_at is not None and self.start >= self.fails_at:
            raise self.error
        frames = np.full((4, 6, 10, 3), 40, np.uint8)
        frames[..., 0] = np.arange(self.start, self.start + 4).reshape(-1, 1, 1) % 256
        piece = Piece(self.start, frames, self.prompt, self.seed, 0.1)
        self.start += 4
        self.blocks += 1
        return piece
