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

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from attrs import evolve, frozen

from harness.errors import HarnessError

KeyValues = Sequence[tuple[torch.Tensor, torch.Tensor]]  # one pair [B, N, H, D] per layer
Ranges = tuple[tuple[int, int], ...]  # frames (first, last + 1) of the video, oldest first


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

    def before(self, frame: int) -> _Piece:
        """What of it comes before a frame inside it, as views; itself when all of it does."""
        if self.start + self.frames <= frame:
            return self
        layers = range(len(self.key_values))
        return _Piece(self.start, frame - self.start, tuple(self.cut(layer, self.start, frame) for layer in layers))


@frozen(eq=False)
class Past:
    """Cached keys and values `[B, N, H, D]` of one layer, oldest first, as a pass reads them."""

    keys: tuple[torch.Tensor, ...] = ()
    values: tuple[torch.Tensor, ...] = ()

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Past and current keys, past and current values, as new tensors."""
        if not self.keys:
            return key, value
        return torch.cat([*self.keys, key], dim=1), torch.cat([*self.values, value], dim=1)


@frozen(eq=False, kw_only=True)
class _BufferedPast(Past):
    """A past at the start of a buffer whose next tokens are free: the current block is written behind it, in place."""

    buffers: tuple[torch.Tensor, torch.Tensor]
    tokens: int

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the buffers."""
        end = self.tokens + key.shape[1]
        joined = []
        for buffer, current in zip(self.buffers, (key, value), strict=True):
            buffer[:, self.tokens : end].copy_(current)
            joined.append(buffer[:, :end])
        return joined[0], joined[1]


class _Pieces:
    """One tensor per finished block."""

    def __init__(self) -> None:
        self.pieces: tuple[_Piece, ...] = ()

    def read(self, layer: int, ranges: Ranges, frames: int) -> Past:
        """The frames in `ranges`."""
        cuts = []
        for first, last in ranges:
            for piece in self.pieces:
                lo, hi = max(first, piece.start), min(last, piece.start + piece.frames)
                if lo < hi:
                    cuts.append(piece.cut(layer, lo, hi))
        return Past(tuple(k for k, _ in cuts), tuple(v for _, v in cuts))

    def write(self, start: int, frames: int, key_values: KeyValues, seen: Ranges, reachable: Ranges) -> None:
        """Append a block, then drop the pieces that have no reachable frame."""
        self.pieces = tuple(
            p
            for p in (*self.pieces, _Piece(start, frames, tuple(key_values)))
            if any(p.start < last and first < p.start + p.frames for first, last in reachable)
        )

    def forget_from(self, frame: int) -> None:
        """Drop the frames from `frame` on."""
        self.pieces = tuple(p.before(frame) for p in self.pieces if p.start < frame)

    def state(self) -> list[dict[str, Any]]:
        """What is held, as plain values and tensors."""
        return [
            {"start": p.start, "frames": p.frames, "key_values": [list(pair) for pair in p.key_values]}
            for p in self.pieces
        ]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Hold what `state` gave."""
        self.pieces = tuple(
            _Piece(p["start"], p["frames"], tuple((key, value) for key, value in p["key_values"])) for p in state
        )

    def detach(self) -> None:
        """Cut what is kept from its graph."""
        self.pieces = tuple(
            evolve(p, key_values=tuple((k.detach(), v.detach()) for k, v in p.key_values)) for p in self.pieces
        )

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor that is held."""
        return (x for piece in self.pieces for pair in piece.key_values for x in pair)


class _Buffer:
    """One buffer of `capacity` frames per layer for keys and one for values. Frames lie in it oldest first, without
    gaps: those that a block no longer sees are closed up when that block's first pass reads its past.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: Ranges = ()
        self.layers: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
        self.tokens = 0  # per frame

    def read(self, layer: int, ranges: Ranges, frames: int) -> Past:
        """The frames in `ranges`, and room for `frames` more. Raises `ValueError` for frames that are gone."""
        self._make_room(_merged(ranges), frames)
        if not ranges:
            return Past()
        used = _count(self.held) * self.tokens
        views = [buffer[:, :used] for buffer in self.layers[layer]]
        if torch.is_grad_enabled():
            return Past((views[0].clone(),), (views[1].clone(),))
        return _BufferedPast(keys=(views[0],), values=(views[1],), buffers=self.layers[layer], tokens=used)

    def write(self, start: int, frames: int, key_values: KeyValues, seen: Ranges, reachable: Ranges) -> None:
        """Append a block behind the frames it has seen. Raises `ValueError` when it does not fit."""
        self._make_room(_merged(seen), frames)
        if not self.layers:
            self._allocate(frames, key_values)
        used = _count(self.held) * self.tokens
        for buffers, tensors in zip(self.layers, key_values, strict=True):
            for buffer, x in zip(buffers, tensors, strict=True):
                buffer[:, used : used + x.shape[1]].copy_(x)
        self.held = _merged((*self.held, (start, start + frames)))

    def forget_from(self, frame: int) -> None:
        """Drop the frames from `frame` on."""
        self.held = tuple((first, min(last, frame)) for first, last in self.held if first < frame)

    def state(self) -> list[dict[str, Any]]:
        """Raises `ValueError`: buffers are for sampling, which is not resumed."""
        raise ValueError("a cache with buffer_frames has no state to save: leave buffer_frames out")

    def load(self, state: list[dict[str, Any]]) -> None:
        """Raises `ValueError`, as `state` does."""
        self.state()

    def detach(self) -> None:
        """Nothing to cut: what is written in place has no graph."""

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor that is held."""
        return (x for pair in self.layers for x in pair)

    def _allocate(self, frames: int, key_values: KeyValues) -> None:
        self.tokens = key_values[0][0].shape[1] // frames
        self.layers = tuple(
            (_empty_like(k, self.capacity * self.tokens), _empty_like(v, self.capacity * self.tokens))
            for k, v in key_values
        )

    def _make_room(self, ranges: Ranges, frames: int) -> None:
        """Keep the frames in `ranges`, with `frames` free ones behind them."""
        if ranges != self.held:
            self._close_up(ranges)
        if (wanted := _count(ranges) + frames) > self.capacity:
            raise ValueError(
                f"the cache's buffer holds {self.capacity} frames, {wanted} are needed: give buffer_frames the whole "
                "clip's length, or the window's (sink and one block, where that is more)"
            )

    def _close_up(self, ranges: Ranges) -> None:
        """Move the frames in `ranges` to the start, in pieces that do not overlap."""
        source = [_position(self.held, first, last) for first, last in ranges]
        target = 0
        for (first, last), begin in zip(ranges, source, strict=True):
            step, end = begin - target, begin + last - first
            for position in range(begin, end, step) if step else ():
                count = min(step, end - position)
                for buffer in (buffer for pair in self.layers for buffer in pair):
                    here = slice((position - step) * self.tokens, (position - step + count) * self.tokens)
                    buffer[:, here].copy_(buffer[:, position * self.tokens : (position + count) * self.tokens])
            target += last - first
        self.held = ranges


def _count(ranges: Ranges) -> int:
    return sum(last - first for first, last in ranges)


def _merged(ranges: Ranges) -> Ranges:
    """The same frames with neighbors joined."""
    merged: list[tuple[int, int]] = []
    for first, last in ranges:
        if merged and merged[-1][1] == first:
            first = merged.pop()[0]
        merged.append((first, last))
    return tuple(merged)


def _position(held: Ranges, first: int, last: int) -> int:
    """Where the frames `first … last − 1` lie among those held. Raises `ValueError` when they are not all there."""
    position = 0
    for start, end in held:
        if start <= first and last <= end:
            return position + first - start
        position += end - start
    raise ValueError(
        f"frames {first}…{last - 1} have left the cache's buffer: a shorter block would see them after a pass over a "
        "longer one at the same place. Commit the block first, or use a cache without buffer_frames"
    )


def _empty_like(x: torch.Tensor, tokens: int) -> torch.Tensor:
    with torch.inference_mode(False):
        return x.new_empty((x.shape[0], tokens, *x.shape[2:]))


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
        self._store = _Pieces() if self.buffer_frames is None else _Buffer(self.buffer_frames)
        self._origin = self._next = 0
        self._since: int | None = None  # frames between the sink and this one are gone: see `rewind`
        self._pending: _Piece | None = None
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
            self._pending = _Piece(frame_offset, frames, tuple(key_values))

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
        return _merged(tuple((a, b) for a, b in ((self._origin, sink_end), (begin, self._next)) if a < b))
