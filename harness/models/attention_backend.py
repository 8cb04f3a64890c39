"""Which kernel computes attention: a back end of diffusers' dispatcher, by name.

No pass of the network needs a mask on an accelerator: block-causal attention is a loop over prefixes of the keys, and
the padding of the text is attended. So flash back ends, which take no masks, serve masked training too. What a back end
must have is a backward pass (for training) and the precision of the run; both are checked before weights are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock

from harness.errors import HarnessError

BACKENDS = tuple(backend.value for backend in AttentionBackendName)
_INSTALL = (  # what a name starts with, and where its kernels come from
    ("native, _native_*", "PyTorch"),
    ("flex", "PyTorch; compile it, or every score is kept in memory"),
    ("flash, flash_varlen", "`pip install flash-attn`"),
    ("_flash_3, _flash_varlen_3", "flash-attention 3, built from source (Hopper GPUs)"),
    ("*_hub", "`pip install kernels`, which fetches them from the Hub"),
    ("sage*, _sage_*", "`pip install sageattention`; sampling only"),
    ("aiter", "AMD's `aiter`"),
    ("xformers", "`pip install xformers`"),
)


def has_backward(name: str) -> bool:
    """Whether gradients flow through a back end: not through sage attention, which quantises."""
    return "sage" not in name


def needs_half_precision(name: str) -> bool:
    """Whether a back end computes in bf16 or fp16 only."""
    return any(part in name for part in ("flash", "sage", "cudnn", "aiter", "npu"))


def check_backend(name: str, *, precision: str, training: bool) -> None:
    """Refuse a back end that this run cannot use. `precision` is "fp32" or "bf16".

    Raises `HarnessError`: the name is unknown (the message lists the known ones and what each needs), its package is
    missing, it has no backward pass and `training` asks for one, or it does not compute in `precision`.
    """
    if name not in BACKENDS:
        known = "; ".join(f"{names}: {source}" for names, source in _INSTALL)
        raise HarnessError(
            f"attention_backend: diffusers has no back end {name!r}; expected one of {', '.join(BACKENDS)}. "
            f"What they need: {known}"
        )
    if training and not has_backward(name):
        raise HarnessError(
            f"attention_backend: {name} has no backward pass, so nothing would be learned; choose native or a flash "
            "back end for training and keep sage for sampling"
        )
    if precision == "fp32" and needs_half_precision(name):
        raise HarnessError(
            f"attention_backend: {name} computes in bf16 only and precision is fp32; set precision: bf16, or "
            "choose native"
        )
    try:
        with attention_backend(name):  # diffusers checks packages here
            pass
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        raise HarnessError(f"attention_backend: {name} cannot be used here: {error}") from error


def set_backend(model: WanTransformer3DModel, name: str) -> None:
    """Let every attention of `model` use a back end that `check_backend` has let pass; other models keep theirs."""
    for block in cast(Iterable[WanTransformerBlock], model.blocks):
        for attention in (block.attn1, block.attn2):
            cast(Any, attention.processor)._attention_backend = AttentionBackendName(name)
