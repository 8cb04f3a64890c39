"""Counting the bytes of tensors: a dispatch mode that sees every tensor made, and when its storage is freed.

On the meta device nothing is allocated, so that the real code can be run at any size to see what it would hold.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Bytes = dict[str, int]  # label → bytes


@define(eq=False)
class _Held:
    """A storage that is alive: its size, what it is, when it was made."""

    size: int
    label: str
    number: int


@frozen
class Peak:
    """The largest sum of live bytes within a window of time, and what it was made of."""

    total: int
    parts: Bytes


class StorageMeter(TorchDispatchMode):
    """Follows the storages of one device that are made while it is active, and their sum by label.

    Labels are given by what the caller says it is doing (`label`), and can be changed while a storage lives
    (`relabel`). Peaks are kept for each `window` that the caller names, in the order of their first use. What a kernel
    takes and gives back within one operation does not count. A tensor that was made before counts from the first view
    of it on, unless it is left out (`leave_out`).

    device   the type of device whose tensors count
    shares   label → the part of its bytes that counts: a gradient that is spread over 8 processes counts 1/8
    """

    def __init__(self, device: str = "meta", shares: dict[str, float] | None = None) -> None:
        super().__init__()
        self.device = device
        self.shares = shares or {}
        self.label = "other"
        self.live: Bytes = {}
        self.peaks: dict[Hashable, Peak] = {}
        self.made = 0
        self._held: dict[int, _Held] = {}
        self._left_out: dict[int, torch.UntypedStorage] = {}
        self._total = 0
        self._highest = 0
        self._window: Hashable = None

    @property
    def window(self) -> Hashable:
        """The current window; setting it begins (or goes on with) another one."""
        return self._window

    @window.setter
    def window(self, name: Hashable) -> None:
        self._window = name
        known = self.peaks.get(name)
        self._highest = known.total if known is not None else -1
        self._look()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if tensor.device.type == self.device:
                self._count(tensor)
        return result

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Do not count these tensors, which were made before, nor views of them."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._left_out[storage._cdata] = storage

    def relabel(self, tensor: Tensor, label: str) -> None:
        """Say what a tensor is, from now on."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        if held is not None:
            self._change(held, label)

    def relabel_survivors(self, since: int, labels: dict[str, str]) -> None:
        """Rename the labels of what was made after `since` (an earlier value of `made`) and still lives."""
        for held in self._held.values():
            if held.number > since and held.label in labels:
                self._change(held, labels[held.label])

    def _change(self, held: _Held, label: str) -> None:
        self._add(held.label, -held.size)
        held.label = label
        self._add(label, held.size)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held or key in self._left_out or storage.nbytes() == 0:
            return
        self.made += 1
        self._held[key] = held = _Held(storage.nbytes(), self.label, self.made)
        self._add(held.label, held.size)
        weakref.finalize(storage, self._release, key)
        self._look()

    def _release(self, key: int) -> None:
        held = self._held.pop(key)
        self._add(held.label, -held.size)

    def _add(self, label: str, size: int) -> None:
        self.live[label] = self.live.get(label, 0) + size
        self._total += round(size * self.shares.get(label, 1.0))

    def _look(self) -> None:
        if self._total > self._highest:
            self._highest = self._total
            parts = {name: round(size * self.shares.get(name, 1.0)) for name, size in self.live.items() if size}
            self.peaks[self._window] = Peak(self._total, parts)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for part in result:
            yield from _tensors(part)
