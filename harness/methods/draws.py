"""The random generators of one forward pass: all of a method's randomness, none from the global state."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from harness.rollout.block import draw_noise
from harness.seeding import generator_for


@frozen
class Draws:
    """CPU generators: `local`, for noise, differs between ranks; `shared`, for control flow, is the same on all."""

    local: torch.Generator
    shared: torch.Generator

    @classmethod
    def at(cls, seed: int, batch: int, piece: int = 0) -> Draws:
        """Give the generators of one forward pass: always the same there, whatever was drawn before.

        `piece` is the place of the microbatch in the global batch (rank · microbatches per rank + microbatch). `shared`
        depends on the batch alone, so that all ranks take the same number of forward passes.
        """
        return cls(local=generator_for(seed, "local", batch, piece), shared=generator_for(seed, "shared", batch))

    def noise_like(self, x: Tensor) -> Tensor:
        """Draw unit noise of the shape, type and device of `x`."""
        return draw_noise(x, self.local)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw integers of [0, high), `shape`, int64 on the CPU."""
        return torch.randint(0, high, shape, generator=self.local)

    def chances(self, probability: float, *shape: int) -> Tensor:
        """Draw booleans that are true with `probability`, `shape`, on the CPU."""
        return torch.rand(shape, generator=self.local) < probability
