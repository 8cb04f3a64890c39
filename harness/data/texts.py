"""Stored texts: their padding, and what stands for "no prompt" (the empty text, or a negative prompt)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from harness.data.mds import NEGATIVE, UNCONDITIONAL
from harness.errors import HarnessError
from harness.io import atomic_write_bytes
from harness.models.condition import pad_text

if TYPE_CHECKING:  # transformers takes seconds to import, and training reads what is stored
    from harness.models.text import EncodedText


def padded(text: Tensor, length: int, where: str) -> Tensor:
    """A stored text `[L, D]` as the networks take it: float32 `[length, D]`, zero-padded.

    Raises HarnessError when it is longer.
    """
    if len(text) > length:
        raise HarnessError(
            f"{where}: the text takes {len(text)} tokens, but encoders.text_length is {length}. "
            f"Raise it, or encode the data again with it"
        )
    return pad_text(text.float(), length)


def write_empty_texts(folder: Path, encode_text: Callable[[str], EncodedText], negative_prompt: str | None) -> None:
    """Write the embeddings that belong beside the splits, float16 `[L, D]`.

    Raises:
        HarnessError: the negative prompt is longer than the encoder takes, or an embedding cannot be stored in float16.
    """
    texts = {UNCONDITIONAL: ""} | ({} if negative_prompt is None else {NEGATIVE: negative_prompt})
    for name, text in texts.items():
        encoded = encode_text(text)
        if encoded.truncated:
            raise HarnessError(
                f"encoders.negative_prompt: {text[:60]!r} … has more tokens than encoders.text_length; shorten it, or "
                "raise that"
            )
        vectors = encoded.vectors.to(torch.float16)
        if not bool(torch.isfinite(vectors).all()):
            raise HarnessError(f"the embedding of {text[:60]!r} is not finite in float16; check the encoder's weights")
        atomic_write_bytes(folder / name, save({"text": vectors}))


def load_unconditional(folder: str | Path, text_length: int) -> Tensor:
    """The embedding of the empty prompt in `folder` (`data/encoded`), zero-padded: float32 `[1, text_length, D]`.

    This is what caption dropout teaches. Raises HarnessError when it is missing or damaged.
    """
    return _load(Path(folder) / UNCONDITIONAL, text_length)


def load_negative(folder: str | Path, text_length: int) -> Tensor:
    """What guidance leads away from, of the same shape: the negative prompt of `folder`, or else the empty one.

    Raises HarnessError when it is missing or damaged.
    """
    path = Path(folder) / NEGATIVE
    return _load(path, text_length) if path.exists() else load_unconditional(folder, text_length)


def _load(path: Path, text_length: int) -> Tensor:
    if not path.is_file():
        raise HarnessError(f"{path}: no such file. Expected the embedding of the empty prompt; run `dvc repro encode`")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise HarnessError(f"{path}: damaged ({error}). Run `dvc checkout` or `dvc repro encode`") from error
    if set(tensors) != {"text"} or tensors["text"].ndim != 2 or not tensors["text"].is_floating_point():
        raise HarnessError(
            f"{path}: expected one tensor `text` [L, D], found {_shapes(tensors)}. Run `dvc repro encode`"
        )
    if not bool(torch.isfinite(tensors["text"]).all()):
        raise HarnessError(f"{path}: has values that are not finite. Run `dvc checkout` or `dvc repro encode`")
    return padded(tensors["text"], text_length, str(path))[None]


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()) or "none"
