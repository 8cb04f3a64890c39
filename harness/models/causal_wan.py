"""Wan's video transformer (arXiv 2503.20314), bidirectional or causal, in one class.

A subclass of diffusers' `WanTransformer3DModel` with the same parameters, names and config: either class loads the
other's checkpoints. One forward serves generator, critic and teacher:

- bidirectional: neither `cache` nor `frames_per_block`;
- diffusion forcing (2407.01392): `frames_per_block`, block-causal attention, a timestep per frame;
- teacher forcing: `frames_per_block` and `clean_hidden_states`;
- rollout (Self-Forcing, 2506.08009): `cache`, one block at a frame offset.

Against the stock class, the time sinusoid is computed in float64, as the original does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from attrs import evolve
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from diffusers.utils.peft_utils import apply_lora_scale

from harness.models.attention import (
    BlockCausal,
    CrossAttentionProcessor,
    SelfAttentionProcessor,
    TeacherForcing,
    block_bounds,
    collapse_padding,
)
from harness.models.block import CausalWanBlock, EmbeddedCondition, LayerInput, Layout
from harness.models.kv_cache import KVCache
from harness.models.rotary import rotary_table


@functools.lru_cache(maxsize=8)
def _time_frequencies(channels: int, device: torch.device) -> torch.Tensor:
    half = channels // 2
    with torch.inference_mode(False):
        return 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)


def time_sinusoid(t: torch.Tensor, channels: int) -> torch.Tensor:
    """Sinusoidal embedding `[..., channels]` ([cos ‖ sin]) of timesteps `t` (0…1000): float64 inside, float32 out."""
    angles = t.double()[..., None] * _time_frequencies(channels, t.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


class CausalWan(WanTransformer3DModel):
    """See the module. The constructor's arguments are those of `WanTransformer3DModel` (and its `config.json`)."""

    _no_split_modules = ["CausalWanBlock"]  # noqa: RUF012 (matched by class name, as diffusers declares them)
    _repeated_blocks = ["CausalWanBlock"]  # noqa: RUF012
    _cp_plan = None

    @functools.wraps(WanTransformer3DModel.__init__)  # `from_config` reads the signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.config["patch_size"][0] != 1:
            raise ValueError(
                f"a token must be one latent frame deep, got patch_size {tuple(self.config['patch_size'])}"
            )
        del self.rope  # its tables would follow the network to bf16; they are made on demand in float32
        for block in cast(Iterable[WanTransformerBlock], self.blocks):
            block.__class__ = CausalWanBlock  # same parameters and initialisation, another forward
            block.attn1.set_processor(cast(Any, SelfAttentionProcessor()))
            block.attn2.set_processor(cast(Any, CrossAttentionProcessor()))

    @apply_lora_scale("attention_kwargs")
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        frame_offset: int = 0,
        cache: KVCache | None = None,
        write_cache: bool = False,
        frames_per_block: int | Sequence[int] | None = None,
        clean_hidden_states: torch.Tensor | None = None,
        clean_timestep: torch.Tensor | None = None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Velocity `[B, out_channels, F, H, W]` of `hidden_states` `[B, in_channels, F, H, W]`, in its dtype.

        timestep                      `[B]` or `[B, F]`, 0…1000
        encoder_hidden_states         `[B, L, text_dim]`, zero-padded text embeddings
        encoder_hidden_states_image   `[B, T, image_dim]` CLIP tokens
        frame_offset                  index in the video of the first frame (RoPE)
        cache, write_cache            see `KVCache`; a commit pass computes no output: the result is NaN
        frames_per_block              block-causal attention, see `block_bounds`
        clean_hidden_states           clean frames for teacher forcing, of the shape of `hidden_states`
        clean_timestep                their timestep, 0 by default

        Raises `ValueError` for arguments that exclude each other or shapes that do not fit the patches.
        """
        _check(hidden_states, self.config["patch_size"], cache, write_cache, frames_per_block, clean_hidden_states)
        frames = hidden_states.shape[2]
        layout, clean_frames = self._layout(hidden_states, frame_offset, cache, frames_per_block, clean_hidden_states)
        x = hidden_states
        if clean_hidden_states is not None:
            x = torch.cat([clean_hidden_states[:, :, :clean_frames], x], dim=2)
            timestep = _join_timesteps(timestep, clean_timestep, frames, clean_frames)

        temb, modulation = self._embed_time(timestep)  # [B, G, dim], [B, G, 6, dim]
        source = (encoder_hidden_states, encoder_hidden_states_image)
        reused = None if torch.is_grad_enabled() else cache  # keys and values of the text serve later passes
        condition = (reused and reused.condition(source, self._version)) or self._embed_condition(*source)

        x = self.patch_embedding(x.to(self.patch_embedding.weight.dtype))
        x = x.flatten(2).transpose(1, 2).contiguous()  # [B, N, dim]
        key_values, condition_key_values = [], []
        for index in range(len(self.blocks)):
            last = index == len(self.blocks) - 1
            layer = LayerInput(
                layout=layout,
                past=None if cache is None else cache.past(index, frames),
                image=condition.image,
                text_bias=condition.text_bias,
                key_values=condition.key_values[index] if condition.key_values else None,
                skip_groups=clean_frames if last else 0,
                keys_only=write_cache and last,
            )
            x, key_value, condition_key_value = self._run_block(index, x, condition.text, modulation, layer)
            if cache is not None:
                key_values.append(key_value)
            if reused is not None:
                condition_key_values.append(condition_key_value)
            del key_value, condition_key_value  # what nobody keeps is freed before the next layer

        if reused is not None:
            reused.store_condition(source, self._version, evolve(condition, key_values=tuple(condition_key_values)))
        if cache is not None and write_cache:
            cache.commit(frame_offset, frames, key_values)
        elif cache is not None and torch.is_grad_enabled():
            cache.remember(frame_offset, frames, key_values)
        if write_cache:
            shape = (x.shape[0], self.config["out_channels"], *hidden_states.shape[2:])
            output = hidden_states.new_full((), float("nan")).expand(shape)
        else:
            output = self._head(x, temb[:, clean_frames:], hidden_states.shape).to(hidden_states.dtype)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _run_block(self, index: int, *inputs: Any) -> Any:
        """Call a block through `__call__`, where the hooks of FSDP and compile sit; checkpointed if that is on."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return cast(Any, self)._gradient_checkpointing_func(self.blocks[index], *inputs)
        return self.blocks[index](*inputs)

    @property
    def _version(self) -> int:
        """Changes whenever an optimizer has changed the weights, adapters beside frozen ones included."""
        return sum(parameter._version for parameter in cast(WanTransformerBlock, self.blocks[0]).attn2.parameters())

    def _layout(
        self,
        x: torch.Tensor,
        frame_offset: int,
        cache: KVCache | None,
        frames_per_block: int | Sequence[int] | None,
        clean: torch.Tensor | None,
    ) -> tuple[Layout, int]:
        """The layout of a pass, and the number of clean frames that come before the noisy ones."""
        frames = x.shape[2]
        _, patch_height, patch_width = self.config["patch_size"]
        rows, columns = x.shape[3] // patch_height, x.shape[4] // patch_width
        head_dim, tokens = self.config["attention_head_dim"], rows * columns
        if cache is not None and cache.rope == "relative":
            window = cache.visible_frames(frames) + frames
            table = rotary_table(head_dim, 0, window, rows, columns, x.device)
            return Layout(table[-frames * tokens :], window_rotary=table), 0
        rotary = rotary_table(head_dim, frame_offset, frames, rows, columns, x.device)
        if frames_per_block is not None:
            bounds = block_bounds(frames, frames_per_block)
            in_tokens = tuple((start * tokens, end * tokens) for start, end in bounds)
            if clean is None:
                return Layout(rotary, pattern=BlockCausal(in_tokens)), 0
            clean_frames = bounds[-1][0]  # no block looks at the last clean one
            rotary = torch.cat([rotary[: clean_frames * tokens], rotary])
            return Layout(rotary, pattern=TeacherForcing(in_tokens)), clean_frames
        return Layout(rotary), 0

    def _embed_time(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Time embedding `[B, G, dim]` and modulations `[B, G, 6, dim]`; G is 1, or the number of frames.

        In the precision of their weights even under autocast, as the original does.
        """
        embedder = self.condition_embedder
        sinusoid = time_sinusoid(timestep if timestep.ndim == 2 else timestep[:, None], self.config["freq_dim"])
        with torch.autocast(sinusoid.device.type, enabled=False):
            temb = embedder.time_embedder(sinusoid.to(embedder.time_embedder.linear_1.weight.dtype))
            temb = temb.to(embedder.time_proj.weight.dtype)
            return temb, embedder.time_proj(embedder.act_fn(temb)).unflatten(2, (6, -1))

    def _embed_condition(self, text: torch.Tensor, image: torch.Tensor | None) -> EmbeddedCondition:
        """Embed text and image tokens; on CPU the padding of the text is collapsed, if the back end can count it."""
        embedder, bias = self.condition_embedder, None
        dtype = embedder.text_embedder.linear_1.weight.dtype
        text = text.to(dtype)
        first = cast(WanTransformerBlock, self.blocks[0])
        counts = cast(CrossAttentionProcessor, first.attn2.processor).takes_bias and text.device.type == "cpu"
        if counts and not text.requires_grad and not torch.compiler.is_compiling():
            text, bias = collapse_padding(text)
        return EmbeddedCondition(
            text=embedder.text_embedder(text),
            image=None if image is None else self._embed_image(image.to(dtype)),
            text_bias=bias,
        )

    def _embed_image(self, image: torch.Tensor) -> torch.Tensor:
        """CLIP tokens `[B, T, image_dim]` to `[B, T, dim]`; `ValueError` for a text-to-video network."""
        if self.condition_embedder.image_embedder is None:
            raise ValueError("image tokens were given to a network without an image embedding (a text-to-video one)")
        return self.condition_embedder.image_embedder(image)

    def _head(self, x: torch.Tensor, temb: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Tokens `[B, N, dim]` to a velocity `[B, C, F, H, W]`; `temb` `[B, G, dim]`."""
        batch, _, frames, height, width = shape
        _, patch_height, patch_width = self.config["patch_size"]
        groups, rows, columns = temb.shape[1], height // patch_height, width // patch_width
        shift, scale = (self.scale_shift_table + temb.unsqueeze(2)).unsqueeze(3).unbind(2)  # [B, G, 1, dim]
        normed = self.norm_out(x.float()).unflatten(1, (groups, -1))
        tokens = self.proj_out(torch.addcmul(shift, normed, 1 + scale).type_as(x))
        patches = tokens.view(batch, frames, rows, columns, patch_height, patch_width, -1)
        return patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, height, width)


def _join_timesteps(t: torch.Tensor, clean_t: torch.Tensor | None, frames: int, clean_frames: int) -> torch.Tensor:
    """One timestep per frame `[B, clean_frames + F]` for [clean ‖ noisy]."""
    clean_t = torch.zeros_like(t) if clean_t is None else clean_t
    noisy, clean = (s if s.ndim == 2 else s[:, None].expand(-1, frames) for s in (t, clean_t))
    return torch.cat([clean[:, :clean_frames].to(noisy), noisy], dim=1)


def _check(
    x: torch.Tensor,
    patch_size: Sequence[int],
    cache: KVCache | None,
    write_cache: bool,
    frames_per_block: int | Sequence[int] | None,
    clean: torch.Tensor | None,
) -> None:
    """Refuse arguments that exclude each other; `ValueError` says which."""
    if x.ndim != 5 or x.shape[3] % patch_size[1] or x.shape[4] % patch_size[2]:
        raise ValueError(
            f"latents must be [B, C, F, H, W] with H, W in patches of {patch_size[1:]}, got {list(x.shape)}"
        )
    if cache is not None and frames_per_block is not None:
        raise ValueError("a cached pass is one block: give either cache or frames_per_block")
    if write_cache and cache is None:
        raise ValueError("write_cache needs a cache to write to")
    if clean is not None and frames_per_block is None:
        raise ValueError("teacher forcing needs frames_per_block")
    if clean is not None and clean.shape != x.shape:
        raise ValueError(f"clean {list(clean.shape)} and noisy {list(x.shape)} frames differ in shape")
