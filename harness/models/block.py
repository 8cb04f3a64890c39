"""One Wan layer that takes a timestep per frame, a cached past, and returns what a cache stores."""

from __future__ import annotations

import torch
from attrs import frozen
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from harness.models.attention import KeyValue, Pattern, full
from harness.models.kv_storage import Past


@frozen(eq=False, kw_only=True)
class EmbeddedCondition:
    """Text and image tokens as the layers read them: embedded, or already keys and values, layer by layer."""

    text: torch.Tensor | None  # [B, L, dim]
    image: torch.Tensor | None = None  # [B, T, dim]
    text_bias: torch.Tensor | None = None  # [1, 1, 1, L], see `collapse_padding`
    key_values: tuple[tuple[KeyValue, ...] | None, ...] | None = None


@frozen(eq=False)
class Layout:
    """How the tokens of one forward pass lie in the video and what they see; the same for all layers."""

    rotary: torch.Tensor  # [N, 1, D/2] complex, of the current tokens
    window_rotary: torch.Tensor | None = None  # of the past too, where positions are places in the window
    pattern: Pattern = full


@frozen(eq=False)
class LayerInput:
    """What one layer needs besides its hidden states.

    One opaque object, because FSDP rebuilds the lists and dicts that it finds among a module's inputs; immutable, so
    that a recomputation under activation checkpointing sees what the forward pass saw.
    """

    layout: Layout
    past: Past | None = None
    image: torch.Tensor | None = None
    text_bias: torch.Tensor | None = None
    key_values: tuple[KeyValue, ...] | None = None  # of the condition
    skip_groups: int = 0  # leading timestep groups that need no output
    keys_only: bool = False  # stop after keys and values: the last layer of a commit pass


def _modulate(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(shift, x, 1 + scale)


class CausalWanBlock(WanTransformerBlock):
    """`WanTransformerBlock` with the same parameters and arithmetic."""

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, text: torch.Tensor | None, temb: torch.Tensor, layer: LayerInput
    ) -> tuple[torch.Tensor, KeyValue, tuple[KeyValue, ...] | None]:
        """Hidden states `[B, N, dim]`, keys and values of self-attention, keys and values of the condition.

        temb   `[B, G, 6, dim]`: G timestep groups (1, or one per frame) of N / G consecutive tokens each; modulations
               per token would take gigabytes
        """
        groups, dtype = temb.shape[1], hidden_states.dtype
        modulation = (self.scale_shift_table + temb.float()).unsqueeze(3)  # [B, G, 6, 1, dim]
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.unbind(2)
        x = hidden_states.unflatten(1, (groups, -1))  # [B, G, N/G, dim]
        tokens = x.shape[2]

        normed = _modulate(self.norm1(x.float()), scale, shift).to(dtype)
        output, key_value = self.attn1(
            normed.flatten(1, 2),
            rotary_emb=layer.layout.rotary,
            pattern=layer.layout.pattern,
            past=layer.past,
            window_rotary=layer.layout.window_rotary,
            skip=layer.skip_groups * tokens,
            keys_only=layer.keys_only,
        )
        if layer.keys_only:
            return hidden_states, key_value, layer.key_values
        if layer.skip_groups:
            x = x[:, layer.skip_groups :]
            gate, ff_shift, ff_scale, ff_gate = (m[:, layer.skip_groups :] for m in (gate, ff_shift, ff_scale, ff_gate))
        x = torch.addcmul(x.float(), output.unflatten(1, (x.shape[1], -1)), gate).to(dtype)

        normed = self.norm2(x.float()).to(dtype).flatten(1, 2)
        output, text_key_values = self.attn2(
            normed, text, layer.text_bias, image=layer.image, key_values=layer.key_values
        )
        x = x + output.unflatten(1, (x.shape[1], -1))

        normed = _modulate(self.norm3(x.float()), ff_scale, ff_shift).to(dtype)
        x = torch.addcmul(x.float(), self.ffn(normed).float(), ff_gate).to(dtype)
        return x.flatten(1, 2), key_value, text_key_values
