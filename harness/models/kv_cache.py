"""Keys and values of finished blocks, for block-by-block rollouts.

Contract:
- A *commit* (a forward pass with `write_cache=True`) stores the keys and values of one block. No other pass changes
  what later passes see.
- `window` counts every attended frame: the sink, the recent ones and the current block (LongLive, arXiv 2509.22622).
  Once it is full a block sees the first `sink` frames, the last `window − sink − block` finished ones, and itself.
- Pieces are immutable; eviction drops references. A graph that waits for its backward pass keeps what it saw.
- `kv_grad="detach"`: no gradient flows through the cache (Self-Forcing, the paper). `"straight_through"`: the values
  are those of the commit, their gradient goes to the keys and values of the last pass with gradient over the same
  frames (as the released code does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from attrs import evolve, frozen

from harness.errors import HarnessError

KeyValues = Sequence[tuple[torch.Tensor, torch.Tensor]]  # one pair [B, N, H, D] per layer


@frozen(eq=False)
class _Piece:
    """Keys and values of the consecutive frames `start … start + frames − 1`, per layer."""

    start: int
    frames: int
    key_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def cut(self, layer: int, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the frames `first … last − 1` (indices in the video) of one layer."""
        key, value = self.key_values[layer]
        if first == self.start and last == self.start + self.frames:
            return key, value
        tokens = key.shape[1] // self.frames
        inside = slice((first - self.start) * tokens, (last - self.start) * tokens)
        return key[:, inside], value[:, inside]


class KVCache:
    """The past of one rollout: a window over the last frames, a sink of first frames, their keys and values.

    window    attended frames, sink and current block included; −1: all
    sink      first frames that never leave the window
    rope      "absolute": positions are frame indices of the video. "relative": positions are counted inside the window,
              so that they stay bounded in an endless video; keys are then stored unrotated
    kv_grad   what gradients do at the cache, see the module's contract

    Raises `HarnessError` for a window that its own sink fills.
    """

    def __init__(
        self,
        window: int = -1,
        sink: int = 0,
        rope: Literal["absolute", "relative"] = "absolute",
        kv_grad: Literal["detach", "straight_through"] = "detach",
    ) -> None:
        if window != -1 and window < 1:
            raise HarnessError(f"window: must be −1 (all frames) or at least one frame, got {window}")
        if sink < 0 or (window != -1 and sink >= window):
            raise HarnessError(
                f"sink: must be at least 0 and below the window ({window} frames, which counts the sink), got {sink}"
            )
        if rope not in ("absolute", "relative") or kv_grad not in ("detach", "straight_through"):
            raise HarnessError(f"KVCache: unknown rope {rope!r} or kv_grad {kv_grad!r}")
        self.window, self.sink, self.rope, self.kv_grad = window, sink, rope, kv_grad
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next commit may start at any frame."""
        self._pieces: tuple[_Piece, ...] = ()
        self._origin = self._next = 0
        self._pending: _Piece | None = None
        self._condition: tuple[tuple[object, ...], int, object] | None = None

    def detach(self) -> None:
        """Cut what is kept from its graph, for a new training step on the same video; the prompt's part is dropped."""
        self._pieces = tuple(
            evolve(p, key_values=tuple((k.detach(), v.detach()) for k, v in p.key_values)) for p in self._pieces
        )
        self._pending = self._condition = None

    @property
    def num_frames(self) -> int:
        """Frames committed so far, which is the index of the next frame."""
        return self._next

    @property
    def is_empty(self) -> bool:
        """True when nothing has been committed since the last reset."""
        return not self._pieces

    def visible_frames(self, frames: int) -> int:
        """How many cached frames a block of `frames` frames attends to."""
        return sum(last - first for first, last in self._ranges(frames))

    def past(self, layer: int, frames: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Keys and values of one layer, oldest first, that a block of `frames` frames attends to."""
        cuts = []
        for first, last in self._ranges(frames):
            for piece in self._pieces:
                lo, hi = max(first, piece.start), min(last, piece.start + piece.frames)
                if lo < hi:
                    cuts.append(piece.cut(layer, lo, hi))
        return tuple(k for k, _ in cuts), tuple(v for _, v in cuts)

    def remember(self, frame_offset: int, frames: int, key_values: KeyValues) -> None:
        """Keep a pass with gradient for the commit of the same frames (only with `kv_grad="straight_through"`)."""
        if self.kv_grad == "straight_through":
            self._pending = _Piece(frame_offset, frames, tuple(key_values))

    def commit(self, frame_offset: int, frames: int, key_values: KeyValues) -> None:
        """Append a finished block, then evict what no later block can see.

        Raises `ValueError` when the block does not follow the last one.
        """
        if self._pieces and frame_offset != self._next:
            raise ValueError(f"the cache ends at frame {self._next}, a block at frame {frame_offset} cannot follow")
        if not self._pieces:
            self._origin = frame_offset
        stored = tuple((k.detach(), v.detach()) for k, v in key_values)
        pending = self._pending
        if pending is not None and (pending.start, pending.frames) == (frame_offset, frames):
            with torch.enable_grad():
                stored = tuple(
                    (k + (pk - pk.detach()), v + (pv - pv.detach()))
                    for (k, v), (pk, pv) in zip(stored, pending.key_values, strict=True)
                )
        self._pending = None
        self._next = frame_offset + frames
        self._pieces = (*self._pieces, _Piece(frame_offset, frames, stored))
        reachable = self._ranges(1)
        self._pieces = tuple(
            p for p in self._pieces if any(p.start < last and first < p.start + p.frames for first, last in reachable)
        )

    def condition(self, source: tuple[object, ...], version: int) -> Any:
        """What was stored for the very objects in `source` (text, image tokens) under weights of this version."""
        if self._condition is None:
            return None
        known, known_version, stored = self._condition
        same = known_version == version and len(known) == len(source) and all(a is b for a, b in zip(known, source))
        return stored if same else None

    def knows_condition(self, source: tuple[object, ...]) -> bool:
        """Whether something is stored for the very objects in `source`, by whatever weights."""
        return self._condition is not None and all(a is b for a, b in zip(self._condition[0], source, strict=True))

    def store_condition(self, source: tuple[object, ...], version: int, stored: object) -> None:
        """Keep the prompt's keys and values, for passes without gradient: reuse would starve `to_k`, `to_v` of it."""
        self._condition = (source, version, stored)

    def _ranges(self, frames: int) -> tuple[tuple[int, int], ...]:
        """Cached frames `(first, last + 1)` that a block of `frames` frames sees: the sink, then the recent ones."""
        held = self._next - self._origin
        if self.window == -1 or held + frames <= self.window:
            return ((self._origin, self._next),) if held else ()
        sink_end = min(self._origin + self.sink, self._next)
        recent = max(self.window - self.sink - frames, 0)
        ranges = ((self._origin, sink_end), (max(self._next - recent, sink_end), self._next))
        return tuple((first, last) for first, last in ranges if first < last)
