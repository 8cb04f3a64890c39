"""Safetensors files, read and written tensor by tensor.

The library's own writer wants every tensor in memory at once. The format is a length, a JSON header with each tensor's
place, and the bytes (https://huggingface.co/docs/safetensors): here the places are fixed first and each tensor goes to
its own as it comes, in any order. The bytes are those that the library writes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from harness.errors import HarnessError
from harness.formats.tensor_stream import DTYPES, Info, Weights, joined, refuse_quantised

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


def read_safetensors(files: Sequence[Path]) -> Weights:
    """The tensors of one or more files; only headers are read now.

    Raises:
        HarnessError: a file is missing, truncated or no safetensors file, holds a tensor that is not floating point
            (quantised weights), or a name is in two files.
    """
    return joined((_one_file(path) for path in files), str(files[0].parent) if len(files) > 1 else str(files[0]))


def _one_file(path: Path) -> Weights:
    infos = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            part = file.get_slice(name)
            dtype = part.get_dtype()
            refuse_quantised(name, dtype, str(path))
            infos[name] = Info(tuple(part.get_shape()), DTYPES[dtype])

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        with _opened(path) as file:
            for name in infos:
                yield name, file.get_tensor(name)

    return Weights(infos, stream)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise HarnessError(
            f"{path}: cannot be read as safetensors ({error}); it is missing, truncated or damaged: fetch it again"
        ) from error


def write_safetensors(weights: Weights, files: Mapping[Path, Sequence[str]]) -> None:
    """Write each file with the tensors named for it, and flush it to disk; the folders must exist.

    Memory: one tensor at a time, besides what the reader of `weights` holds.
    """
    with contextlib.ExitStack() as stack:
        places: dict[str, tuple[BinaryIO, int]] = {}
        opened = []
        for path, names in files.items():
            header, offsets, size = layout({name: weights.infos[name] for name in names})
            file = stack.enter_context(open(path, "wb"))
            opened.append(file)
            file.write(header)
            file.truncate(len(header) + size)
            places |= {name: (file, len(header) + offset) for name, offset in offsets.items()}
        for name, tensor in weights.stream():
            file, place = places.pop(name)
            file.seek(place)
            file.write(tensor_bytes(tensor))
        assert not places, f"never streamed: {sorted(places)}"
        for file in opened:
            file.flush()
            os.fsync(file.fileno())


def layout(infos: Mapping[str, Info]) -> tuple[bytes, dict[str, int], int]:
    """The header of a file, each tensor's offset behind it, and the bytes behind it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, end = {}, 0
    for name in sorted(infos, key=lambda name: (_RANK[infos[name].dtype], name)):
        info = infos[name]
        offsets[name], start, end = end, end, end + info.nbytes
        entries[name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets, end


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's values as they lie in memory (little-endian), row by row."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
