"""How a cache holds keys and values: a tensor per finished block, or buffers that are written in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from attrs import evolve, frozen

KeyValues = Sequence[tuple[torch.Tensor, torch.Tensor]]  # one pair [B, N, H, D] per layer
Ranges = tuple[tuple[int, int], ...]  # frames (first, last + 1) of the video, oldest first


@frozen(eq=False)
class Piece:
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

    def before(self, frame: int) -> Piece:
        """What of it comes before a frame inside it, as views; itself when all of it does."""
        if self.start + self.frames <= frame:
            return self
        layers = range(len(self.key_values))
        return Piece(self.start, frame - self.start, tuple(self.cut(layer, self.start, frame) for layer in layers))


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


class Pieces:
    """One tensor per finished block."""

    def __init__(self) -> None:
        self.pieces: tuple[Piece, ...] = ()

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
            for p in (*self.pieces, Piece(start, frames, tuple(key_values)))
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
            Piece(p["start"], p["frames"], tuple((key, value) for key, value in p["key_values"])) for p in state
        )

    def detach(self) -> None:
        """Cut what is kept from its graph."""
        self.pieces = tuple(
            evolve(p, key_values=tuple((k.detach(), v.detach()) for k, v in p.key_values)) for p in self.pieces
        )

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor that is held."""
        return (x for piece in self.pieces for pair in piece.key_values for x in pair)


class Buffer:
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
        self._make_room(merged(ranges), frames)
        if not ranges:
            return Past()
        used = _count(self.held) * self.tokens
        views = [buffer[:, :used] for buffer in self.layers[layer]]
        if torch.is_grad_enabled():
            return Past((views[0].clone(),), (views[1].clone(),))
        return _BufferedPast(keys=(views[0],), values=(views[1],), buffers=self.layers[layer], tokens=used)

    def write(self, start: int, frames: int, key_values: KeyValues, seen: Ranges, reachable: Ranges) -> None:
        """Append a block behind the frames it has seen. Raises `ValueError` when it does not fit."""
        self._make_room(merged(seen), frames)
        if not self.layers:
            self._allocate(frames, key_values)
        used = _count(self.held) * self.tokens
        for buffers, tensors in zip(self.layers, key_values, strict=True):
            for buffer, x in zip(buffers, tensors, strict=True):
                buffer[:, used : used + x.shape[1]].copy_(x)
        self.held = merged((*self.held, (start, start + frames)))

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


def merged(ranges: Ranges) -> Ranges:
    """The same frames with neighbors joined."""
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and joined[-1][1] == first:
            first = joined.pop()[0]
        joined.append((first, last))
    return tuple(joined)


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
