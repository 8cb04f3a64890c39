"""Named tensors that are read when asked for, one file at a time: what every reader gives and every writer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from attrs import evolve, frozen

from harness.errors import HarnessError

# The types that are read and written, by their names in safetensors, in the order in which that library lays them out,
# widest first: every tensor is then aligned.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


@frozen
class Info:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@frozen
class Weights:
    """The tensors of a checkpoint.

    infos    name → shape and type, known from the files' headers
    stream   yields every (name, tensor) once. Consume it one by one: a file is closed when its last tensor was used
    """

    infos: Mapping[str, Info]
    stream: Callable[[], Iterator[tuple[str, torch.Tensor]]]

    @property
    def nbytes(self) -> int:
        """Size in bytes of all tensors."""
        return sum(info.nbytes for info in self.infos.values())


def refuse_quantised(name: str, dtype: str, where: str) -> None:
    """Raise `HarnessError` for a tensor whose type (its name in safetensors) is none of `DTYPES`."""
    if dtype not in DTYPES:
        raise HarnessError(
            f"{where}: {name} is of type {dtype}; expected {', '.join(DTYPES)}. Quantised weights cannot be read: take "
            "the checkpoint they were made from"
        )


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Weights that are in memory (or mapped) already."""
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return Weights(infos, lambda: iter(tensors.items()))


def joined(parts: Iterable[Weights], where: str) -> Weights:
    """The tensors of several files as one. Raises `HarnessError` for a name that two of them hold."""
    parts, infos = list(parts), {}
    for part in parts:
        if twice := sorted(infos.keys() & part.infos.keys()):
            raise HarnessError(f"{where}: {twice[0]} is in two files; remove the one that does not belong here")
        infos.update(part.infos)

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for part in parts:
            yield from part.stream()

    return Weights(infos, stream)


def renamed(weights: Weights, names: Mapping[str, str]) -> Weights:
    """The tensors of `weights` that `names` (old → new) lists, under their new names."""
    infos = {names[name]: info for name, info in weights.infos.items() if name in names}
    return Weights(infos, lambda: ((names[name], tensor) for name, tensor in weights.stream() if name in names))


def cast(weights: Weights, dtype: torch.dtype | None) -> Weights:
    """The same tensors in another floating-point type; None keeps each in its own."""
    if dtype is None:
        return weights
    infos = {name: evolve(info, dtype=dtype) for name, info in weights.infos.items()}
    return Weights(infos, lambda: ((name, tensor.to(dtype)) for name, tensor in weights.stream()))
