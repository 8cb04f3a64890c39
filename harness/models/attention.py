"""Who attends to whom: block-causal and teacher-forcing patterns without dense masks, and the two attention processors.

A pattern is a function of rotated queries, keys and values `[B, N, H, D]`. Block-causal attention is a loop over
blocks, each over a prefix of the keys: no mask is ever built, so every back end of diffusers' dispatcher serves.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from attrs import frozen
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention

from harness.models.kv_storage import Past
from harness.models.rotary import rotate

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Pattern = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Attend], torch.Tensor]
KeyValue = tuple[torch.Tensor, torch.Tensor]


def block_bounds(frames: int, frames_per_block: int | Sequence[int]) -> tuple[tuple[int, int], ...]:
    """`(start, end)` frames of each block; the last may be shorter.

    A pair `(first, rest)` gives the first block its own size. Raises `ValueError` for a size below one.
    """
    sizes = (frames_per_block,) * 2 if isinstance(frames_per_block, int) else tuple(frames_per_block)
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"frames_per_block must be a positive number or (first, rest), got {frames_per_block!r}")
    edges = [0, *range(sizes[0], frames, sizes[1]), frames]
    return tuple(itertools.pairwise(edges))


def full(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attend: Attend) -> torch.Tensor:
    """Every query sees every key."""
    return attend(query, key, value)


@frozen
class BlockCausal:
    """A block sees itself and the blocks before it. `bounds` are in tokens."""

    bounds: tuple[tuple[int, int], ...]

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Attention output `[B, N, H, D]`."""
        return torch.cat([attend(query[:, s:e], key[:, :e], value[:, :e]) for s, e in self.bounds], dim=1)


@frozen
class TeacherForcing:
    """Over [clean ‖ noisy] blocks: noisy block i sees itself and clean blocks before i; clean ones are block-causal.

    No block looks at the last clean one, so it is not part of the sequence. `bounds` are those of the noisy half, in
    tokens. Queries may be those of the noisy half alone.
    """

    bounds: tuple[tuple[int, int], ...]

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Attention output, as long as `query`."""
        clean = self.bounds[-1][0]
        skipped = clean + self.bounds[-1][1] - query.shape[1]
        pieces = []
        if not skipped:
            pieces = [attend(query[:, s:e], key[:, :e], value[:, :e]) for s, e in self.bounds[:-1]]
        for s, e in self.bounds:
            own = slice(clean + s, clean + e)
            seen_key = torch.cat([key[:, :s], key[:, own]], dim=1) if s else key[:, own]
            seen_value = torch.cat([value[:, :s], value[:, own]], dim=1) if s else value[:, own]
            pieces.append(attend(query[:, clean - skipped + s : clean - skipped + e], seen_key, seen_value))
        return torch.cat(pieces, dim=1)


def collapse_padding(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Replace n trailing all-zero positions of `text` `[B, L, D]` by one that counts n times: exact, and far less work.

    Wan pads a prompt to 512 positions and attends to them; all of them have the same key and value, so that
    `n·exp(s) = exp(s + log n)`. Returns the shorter text and a bias `[1, 1, 1, L']` on the attention scores (None when
    nothing was collapsed).
    """
    length = text.shape[1]
    used = text.detach().abs().sum(dim=(0, 2)).nonzero()
    real = int(used[-1]) + 1 if len(used) else 0
    if length - real < 2:
        return text, None
    bias = torch.zeros(1, 1, 1, real + 1, dtype=text.dtype, device=text.device)
    bias[..., -1] = math.log(length - real)
    return text[:, : real + 1], bias


class SelfAttentionProcessor:
    """Self-attention over the cached past and the current tokens.

    The back end is diffusers' setting: `model.set_attention_backend(name)`.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        rotary_emb: torch.Tensor,
        *,
        pattern: Pattern = full,
        past: Past | None = None,
        window_rotary: torch.Tensor | None = None,
        skip: int = 0,
        keys_only: bool = False,
    ) -> tuple[torch.Tensor | None, KeyValue]:
        """Output `[B, N − skip, dim]` (None with `keys_only`), and keys and values `[B, N, H, D]` for a cache to keep.

        rotary_emb      table of the current tokens
        past            cached keys and values
        window_rotary   table of past and current tokens (positions inside the window); cached keys are then unrotated
        skip            leave the first tokens without output; they still give keys and values
        """
        heads = (attn.heads, -1)
        key = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, heads)
        value = attn.to_v(hidden_states).unflatten(2, heads)
        if window_rotary is None:
            key = rotate(key, rotary_emb)
        stored = (key, value)
        if keys_only:
            return None, stored
        if past is not None:
            key, value = past.join(key, value)
        if window_rotary is not None:
            key = rotate(key, window_rotary)
        query = attn.norm_q(attn.to_q(hidden_states[:, skip:])).unflatten(2, heads)
        query = rotate(query, rotary_emb[skip:])
        attend = functools.partial(dispatch_attention_fn, backend=self._attention_backend)
        output = pattern(query, key, value, attend).flatten(2)
        return attn.to_out[1](attn.to_out[0](output)), stored


class CrossAttentionProcessor:
    """Attention to the text and, in image-to-video networks, to the image tokens: `attn(q, text) + attn(q, image)`."""

    _attention_backend = None
    _parallel_config = None

    @property
    def takes_bias(self) -> bool:
        """Whether the back end adds a bias to the scores (see `collapse_padding`)."""
        return self._attention_backend in (None, "native", "_native_math")

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: torch.Tensor | None = None,
        *,
        image: torch.Tensor | None = None,
        key_values: tuple[KeyValue, ...] | None = None,
    ) -> tuple[torch.Tensor, tuple[KeyValue, ...]]:
        """Output `[B, N, dim]`, and keys and values of (text,) or (text, image): given as `key_values` they are reused.

        attention_mask   bias on the scores of the text positions (see `collapse_padding`)
        """
        heads = (attn.heads, -1)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, heads)
        if key_values is None:
            key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, heads)
            key_values = ((key, attn.to_v(encoder_hidden_states).unflatten(2, heads)),)
            if image is not None:
                assert attn.add_k_proj is not None  # an image-to-video network: its image embedding has run
                assert attn.add_v_proj is not None
                key = attn.norm_added_k(attn.add_k_proj(image)).unflatten(2, heads)
                key_values += ((key, attn.add_v_proj(image).unflatten(2, heads)),)
        attend = functools.partial(dispatch_attention_fn, backend=self._attention_backend)
        output = attend(query, *key_values[0], attn_mask=attention_mask)
        for key, value in key_values[1:]:
            output = output + attend(query, key, value)
        return attn.to_out[1](attn.to_out[0](output.flatten(2))), key_values
