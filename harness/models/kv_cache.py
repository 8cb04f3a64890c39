"""Keys and values of finished blocks, for block-by-block rollouts.

Contract:
- A *commit* (a forward pass with `write_cache=True`) stores the keys and values of one block. No other pass changes
  what later passes see.
- `window` counts every attended frame: the sink, the recent ones and the current block (LongLive, arXiv 2509.22622).
  Once it is full a block sees the first `sink` frames, the last `window − sink − block` finished ones, and itself.
- By default every block is a piece of its own: pieces are immutable, eviction drops references, and a graph that waits
  for its backward pass keeps what it saw.
- With `buffer_frames` keys and values lie in buffers that are written in place, for sampling: a pass reads past and
  current block as one view, nothing is joined anew. What is seen is the same, bit for bit. A pass with gradient gets a
  copy of its past, so that it never sees later writes.
- `kv_grad="detach"`: no gradient flows through the cache (Self-Forcing, the paper). `"straight_through"`: the values
  are those of the commit, their gradient goes to the keys and values of the last pass with gradient over the same
  frames (as the released code does).
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from harness.errors import HarnessError
from harness.models.kv_storage import Buffer, KeyValues, Past, Piece, Pieces, Ranges, merged


class KVCache:
    """The past of one rollout: a window over the last frames, a sink of first frames, their keys and values.

    window    attended frames, sink and current block included; −1: all
    sink      first frames that never leave the window
    rope      "absolute": positions are frame indices of the video. "relative": positions are counted inside the window,
              so that they stay bounded in an endless video; keys are then stored unrotated
    kv_grad   what gradients do at the cache, see the module's contract
    buffer_frames
              None: a tensor per block. A number: buffers for so many frames, the current block's included (the window,
              or the whole video without one), for sampling

    Raises `HarnessError` for a window that its own sink fills, and for buffers that should carry gradient.
    """

    def __init__(
        self,
        window: int = -1,
        sink: int = 0,
        rope: Literal["absolute", "relative"] = "absolute",
        kv_grad: Literal["detach", "straight_through"] = "detach",
        buffer_frames: int | None = None,
    ) -> None:
        if window != -1 and window < 1:
            raise HarnessError(f"window: must be −1 (all frames) or at least one frame, got {window}")
        if sink < 0 or (window != -1 and sink >= window):
            raise HarnessError(
                f"sink: must be at least 0 and below the window ({window} frames, which counts the sink), got {sink}"
            )
        if rope not in ("absolute", "relative") or kv_grad not in ("detach", "straight_through"):
            raise HarnessError(f"KVCache: unknown rope {rope!r} or kv_grad {kv_grad!r}")
        if buffer_frames is not None and (buffer_frames < 1 or kv_grad == "straight_through"):
            raise HarnessError(
                f"buffer_frames: must be at least 1, and null with kv_grad 'straight_through' (buffers are written in "
                f"place and carry no gradient); got {buffer_frames} with kv_grad {kv_grad!r}"
            )
        self.window, self.sink, self.rope, self.kv_grad = window, sink, rope, kv_grad
        self.buffer_frames = buffer_frames
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next commit may start at any frame."""
        self._store = Pieces() if self.buffer_frames is None else Buffer(self.buffer_frames)
        self._origin = self._next = 0
        self._since: int | None = None  # frames between the sink and this one are gone: see `rewind`
        self._pending: Piece | None = None
        self._condition: tuple[tuple[object, ...], int, object] | None = None

    def rewind(self, frame: int) -> None:
        """Keep of the past the sink alone, and go on at `frame`, one of those committed: blocks from there on are to
        be committed again, for example with another prompt.

        Raises `ValueError` for a frame in the sink, or one that was not committed.
        """
        if not self._origin + self.sink <= frame <= self._next:
            raise ValueError(
                f"cannot go back to frame {frame}: the sink ends at {self._origin + self.sink}, the cache at "
                f"{self._next}"
            )
        self._store.forget_from(frame)
        self._next = self._since = frame
        if not self.sink:
            self._origin, self._since = frame, None
        self._pending = self._condition = None

    def state_dict(self) -> dict[str, Any]:
        """Keys and values, and where they belong, as plain values and tensors; the prompt's part is made anew.

        Raises `ValueError` for a cache with `buffer_frames`.
        """
        return {"held": self._store.state(), "origin": self._origin, "next": self._next, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave of a cache with the same settings."""
        self.reset()
        self._store.load(state["held"])
        self._origin, self._next, self._since = state["origin"], state["next"], state["since"]

    def detach(self) -> None:
        """Cut what is kept from its graph, for a new training step on the same video; the prompt's part is dropped."""
        self._store.detach()
        self._pending = self._condition = None

    @property
    def num_frames(self) -> int:
        """Frames committed so far, which is the index of the next frame."""
        return self._next

    @property
    def is_empty(self) -> bool:
        """True when nothing has been committed since the last reset."""
        return self._next == self._origin

    def visible_frames(self, frames: int) -> int:
        """How many cached frames a block of `frames` frames attends to."""
        return sum(last - first for first, last in self._ranges(frames))

    def past(self, layer: int, frames: int) -> Past:
        """What a block of `frames` frames attends to in one layer, besides itself."""
        return self._store.read(layer, self._ranges(frames), frames)

    @property
    def num_bytes(self) -> int:
        """Memory of the keys and values of frames; those of the prompt, which do not grow, not counted."""
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self._store.tensors()}
        return sum(storages.values())

    def remember(self, frame_offset: int, frames: int, key_values: KeyValues) -> None:
        """Keep a pass with gradient for the commit of the same frames (only with `kv_grad="straight_through"`)."""
        if self.kv_grad == "straight_through":
            self._pending = Piece(frame_offset, frames, tuple(key_values))

    def commit(self, frame_offset: int, frames: int, key_values: KeyValues) -> None:
        """Append a finished block, then evict what no later block can see.

        Raises `ValueError` when the block does not follow the last one.
        """
        if not self.is_empty and frame_offset != self._next:
            raise ValueError(f"the cache ends at frame {self._next}, a block at frame {frame_offset} cannot follow")
        stored = tuple((k.detach(), v.detach()) for k, v in key_values)
        pending = self._pending
        if pending is not None and (pending.start, pending.frames) == (frame_offset, frames):
            with torch.enable_grad():
                stored = tuple(
                    (k + (pk - pk.detach()), v + (pv - pv.detach()))
                    for (k, v), (pk, pv) in zip(stored, pending.key_values, strict=True)
                )
        self._pending = None
        seen = self._ranges(frames)
        if self.is_empty:
            self._origin = frame_offset
        self._next = frame_offset + frames
        self._store.write(frame_offset, frames, stored, seen, self._ranges(1))

    def condition(self, source: tuple[object, ...], version: int) -> Any:
        """What was stored for the very objects in `source` (text, image tokens) under weights of this version."""
        if self._condition is None or not self.knows_condition(source):
            return None
        _, known_version, stored = self._condition
        return stored if known_version == version else None

    def knows_condition(self, source: tuple[object, ...]) -> bool:
        """Whether something is stored for the very objects in `source`, by whatever weights."""
        known = () if self._condition is None else self._condition[0]
        return len(known) == len(source) > 0 and all(a is b for a, b in zip(known, source))

    def store_condition(self, source: tuple[object, ...], version: int, stored: object) -> None:
        """Keep the prompt's keys and values, for passes without gradient: reuse would starve `to_k`, `to_v` of it."""
        self._condition = (source, version, stored)

    def _ranges(self, frames: int) -> Ranges:
        """Cached frames `(first, last + 1)` that a block of `frames` frames sees: the sink, then the recent ones."""
        if self.is_empty:
            return ()
        sink_end = min(self._origin + self.sink, self._next)
        begin = sink_end if self._since is None else self._since
        if self.window != -1 and sink_end - self._origin + self._next - begin + frames > self.window:
            begin = max(self._next - max(self.window - self.sink - frames, 0), begin)
        return merged(tuple((a, b) for a, b in ((self._origin, sink_end), (begin, self._next)) if a < b))
