"""The parts of a pipeline from their folders, each by the project's own reader: exact, and with its own messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.models.checkpoint import load_model
from harness.models.codec import load_vae
from harness.models.image import load_image_encoder
from harness.models.text import load_text_encoder

NAMES = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")


def load_parts(
    transformer: Path, encoders: Path, *, text_length: int, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The parts by name: the network from `transformer`, the others from their folders under `encoders`.

    Each in the type in which it was saved. The image encoder is None where there is none. What is `given` is not read.

    Raises:
        HarnessError: a folder is missing, damaged or of another kind.
    """
    parts = dict(given or {})
    if "transformer" not in parts:
        parts["transformer"] = load_model(transformer)
    if "vae" not in parts:
        parts["vae"] = load_vae(encoders / "vae")
    if not {"text_encoder", "tokenizer"} <= parts.keys():
        text = load_text_encoder(encoders / "text_encoder", encoders / "tokenizer", max_length=text_length)
        parts = {"text_encoder": text.model, "tokenizer": text.tokenizer} | parts
    if (encoders / "image_encoder").is_dir() and not {"image_encoder", "image_processor"} <= parts.keys():
        image = load_image_encoder(encoders / "image_encoder")
        parts = {"image_encoder": image.model, "image_processor": image.processor} | parts
    return parts


def cast_parts(parts: Mapping[str, Any], torch_dtype: torch.dtype | Mapping[str, torch.dtype] | None) -> None:
    """Cast networks to one type, or those that are named (`default`: the others), as diffusers' `torch_dtype` does."""
    if torch_dtype is None:
        return
    wanted = torch_dtype if isinstance(torch_dtype, Mapping) else {"default": torch_dtype}
    for name, part in parts.items():
        dtype = wanted.get(name, wanted.get("default"))
        if isinstance(part, torch.nn.Module) and dtype is not None:
            part.to(dtype)
