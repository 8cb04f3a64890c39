"""`.pt` files as Self-Forcing, LongLive and their forks save them: state dicts under a few known keys.

Read with `weights_only=True`, so that a file can hold no code, and mapped, so that only the chosen tensors are read.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import HarnessError
from harness.formats.tensor_stream import DTYPES, Weights, from_tensors, refuse_quantised

EMA, RAW = ("generator_ema",), ("generator", "model")  # by precedence
LORA = "generator_lora"
STATE_DICT = "state_dict"  # how a file without keys is called in messages and in `origin.json`
PREFIX = "model."  # of every name: the reference's wrapper around the network
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def load_pickle(path: Path) -> Mapping[str, Any]:
    """The content of a `.pt` file, with its tensors mapped.

    Raises:
        HarnessError: the file is missing, truncated, of the format before torch 1.6, or holds more than tensors and
            plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise HarnessError(
            f"{path}: holds more than tensors and plain values, or is no PyTorch file: it is not loaded, because it "
            "could run code. Take the state dict alone, saved by someone you trust"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HarnessError(
            f"{path}: cannot be read as a PyTorch file ({reason}); it is missing, truncated, damaged or older than "
            "torch 1.6: fetch it again"
        ) from error
    if not isinstance(content, Mapping):
        raise HarnessError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def is_state(value: object) -> bool:
    """Whether a value is a state dict: names and tensors, nothing else."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def read_state(state: Mapping[str, torch.Tensor], path: Path) -> Weights:
    """The tensors of a state dict.

    Raises:
        HarnessError: a tensor is not floating point (quantised weights).
    """
    for name, tensor in state.items():
        refuse_quantised(name, _NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")), str(path))
    return from_tensors(state)


def choose_state(content: Mapping[str, Any], weights: str | None, path: Path) -> tuple[Weights, str]:
    """The network's state dict and the key it was found under.

    weights   `ema`, `raw`, or None: the averaged weights where there are any (the reference's samplers use them)

    Raises:
        HarnessError: the wanted weights are not there (only a critic's, an adapter's or a training state are), or they
            are quantised.
    """
    keys = {"ema": EMA, "raw": RAW, None: EMA + RAW}[weights]
    for key in keys:
        if is_state(content.get(key)):
            return read_state(content[key], path), key
    if weights != "ema" and is_state(content):
        return read_state(content, path), STATE_DICT
    held = ", ".join(sorted(map(str, content))[:8]) or "nothing"
    if LORA in content:
        advice = "It is an adapter: import its base, and give this file as --lora"
    elif weights is not None and any(is_state(content.get(key)) for key in EMA + RAW):
        advice = f"There are other weights: leave out --weights {weights}"
    else:
        advice = "It is the checkpoint of another stage (a critic, an optimiser, a text encoder …)"
    raise HarnessError(f"{path}: no {' or '.join(keys)} in it; it holds {held}. {advice}")


def write_pickle(weights: Weights, path: Path) -> None:
    """Save the weights as Self-Forcing does: `generator`, and the same tensors as `generator_ema`, so that its samplers
    find them with and without `--use_ema`. Names must be the original ones.

    Memory: `torch.save` maps all tensors, once.

    Raises:
        OSError: the disk is full or refuses.
    """
    state = {PREFIX + name: tensor for name, tensor in weights.stream()}
    save_pickle({"generator": state, "generator_ema": state}, path)


def save_pickle(content: Mapping[str, Any], path: Path) -> None:
    """Save tensors and plain values as a `.pt`, and flush it to disk.

    Raises:
        OSError: the disk is full or refuses.
    """
    with open(path, "wb") as file:
        with _disk_errors_unmasked():
            torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _disk_errors_unmasked() -> Iterator[None]:
    """After a write that failed, PyTorch's writer closes its archive, and fails again with a RuntimeError of its own,
    which hides the disk's error: that one is raised.
    """
    try:
        yield
    except RuntimeError as error:
        hidden = error.__context__
        while hidden is not None and not isinstance(hidden, OSError):
            hidden = hidden.__context__
        if hidden is None:
            raise
        raise hidden from None
