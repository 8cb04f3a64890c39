"""Randomness named by counters: nothing random has to be stored to continue a run.

A generator is a pure function of a seed and the place where it is used (batch, microbatch, rank, purpose). Leave the
rank out where all ranks must draw the same number (exit steps, for example); put it in where they must differ (noise).
"""

from __future__ import annotations

import hashlib
import json

import torch


def seed_for(seed: int, *counters: int | str) -> int:
    """A 63-bit seed from the SHA-256 of `(seed, *counters)`.

    Raises:
        TypeError: if the seed or a counter is not an int or str (a bool or a float would collide with an int silently).
    """
    for item in (seed, *counters):
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise TypeError(f"a seed counter must be int or str, got {item!r}")
    text = json.dumps([seed, *counters], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *counters: int | str) -> torch.Generator:
    """A fresh CPU generator for one place in a run, equal on every machine and rank that names the same place."""
    return torch.Generator(device="cpu").manual_seed(seed_for(seed, *counters))
