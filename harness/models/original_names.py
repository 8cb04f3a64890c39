"""Parameter names: the original Wan code's (`.pth`, Self-Forcing, LongLive) and diffusers'. Renaming, no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_BLOCK = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",  # the cross-attention norm: the second one of a block, third in the original's numbering
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
_ROOT = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}


def _rename(name: str, root: Mapping[str, str], block: Mapping[str, str]) -> str | None:
    """`name` with its module part replaced, or None when it is not a name of the table."""
    table, prefix, rest = root, "", name
    if name.startswith("blocks."):
        _, index, rest = name.split(".", 2)
        table, prefix = block, f"blocks.{index}."
    if rest in table:  # a parameter of its own: modulation
        return prefix + table[rest]
    module, _, parameter = rest.rpartition(".")
    return f"{prefix}{table[module]}.{parameter}" if module in table else None


def _rename_all(state: Mapping[str, T], root: Mapping[str, str], block: Mapping[str, str], what: str) -> dict[str, T]:
    renamed = {name: _rename(name, root, block) for name in state}
    unknown = sorted(name for name, new in renamed.items() if new is None)
    if unknown:
        raise KeyError(f"not {what}: {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''} ({len(unknown)} names)")
    return {str(renamed[name]): value for name, value in state.items()}


def to_diffusers(state: Mapping[str, T]) -> dict[str, T]:
    """Original names → diffusers'. Raises `KeyError` naming what is unknown."""
    return _rename_all(state, _ROOT, _BLOCK, "original Wan names")


def to_original(state: Mapping[str, T]) -> dict[str, T]:
    """Names of diffusers → original names. Raises `KeyError` naming what is unknown."""
    return _rename_all(state, _inverse(_ROOT), _inverse(_BLOCK), "diffusers' Wan names")


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}
