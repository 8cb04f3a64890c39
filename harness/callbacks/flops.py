"""Floating point operations of a denoiser's forward pass, from its shapes: matrix products and attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from harness.models.attention import block_bounds

TEXT_PARTS = ("attn2.to_k", "attn2.to_v", "text_embedder")
IMAGE_PARTS = ("add_k_proj", "add_v_proj", "image_embedder")
TIME_PARTS = ("time_embedder", "time_proj")
KEY_VALUE_PARTS = ("attn1.to_k", "attn1.to_v")  # of self-attention: all that the last layer of a commit pass computes


def matmul_parameters(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Weights of all matrix products by what they apply to: `video`, `text` or `image` tokens, or the `time` embedding;
    `key_value` are those of `video` that make the keys and values of self-attention.

    Layers that are not named as in diffusers' Wan count as applied to video tokens.
    """
    counts = {"video": 0, "text": 0, "image": 0, "time": 0, "key_value": 0}
    for name, module in modules.items():
        if isinstance(module, nn.Linear | nn.Conv3d):
            applied_to = "video"
            for kind, parts in (("text", TEXT_PARTS), ("image", IMAGE_PARTS), ("time", TIME_PARTS)):
                if any(part in name for part in parts):
                    applied_to = kind
            counts[applied_to] += module.weight.numel()
            counts["key_value"] += module.weight.numel() if any(part in name for part in KEY_VALUE_PARTS) else 0
    return counts


def causal_pairs(bounds: tuple[tuple[int, int], ...]) -> int:
    """Pairs (query frame, key frame) under a block-causal mask with these `(start, end)` blocks."""
    return sum((end - start) * end for start, end in bounds)


@frozen
class Call:
    """What the cost of one forward pass depends on. Lengths in latent frames, or in tokens for text and image."""

    shape: tuple[int, ...]  # [B, C, F, H, W]
    text: int = 0
    image: int = 0
    times: int = 1  # timesteps per sample
    past: int = 0  # cached frames that are attended to
    blocks: tuple[tuple[int, int], ...] = ()  # of a block-causal pass
    clean: bool = False  # teacher forcing: [clean ‖ noisy], without the last clean block, which nothing looks at
    commit: bool = False  # keys and values for the cache: the last layer stops there, the head is skipped
    reused: bool = False  # keys and values of text and image come from the cache


class DenoiserCost:
    """The cost of one forward pass of a network, as a function of the call's arguments.

    Geometry comes from the network's config; a network without one is counted by its matrix products alone. Read before
    any FSDP wrapping, because shards hide the shapes.

    adapters   count them too, if the network has any; False: as it is when they are off
    """

    def __init__(self, network: nn.Module, *, adapters: bool = True) -> None:
        config = dict(getattr(network, "config", {}))
        self.patch: tuple[int, int, int] = tuple(config.get("patch_size", (1, 1, 1)))  # type: ignore[assignment]
        self.layers = config.get("num_layers", 0)
        self.width = config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0)
        modules = {name: part for name, part in network.named_modules() if adapters or ".lora_" not in name}
        last = f"blocks.{self.layers - 1}."
        self.weights = matmul_parameters(modules)
        self.last_layer = matmul_parameters({name: m for name, m in modules.items() if name.startswith(last)})
        self.head = matmul_parameters({name: m for name, m in modules.items() if name == "proj_out"})["video"]
        self._known: dict[Call, int] = {}

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """FLOPs of `network(*args, **kwargs)`, forward only (diffusers' argument names). Call it before the pass."""
        x: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        text: Tensor | None = kwargs.get("encoder_hidden_states")
        image: Tensor | None = kwargs.get("encoder_hidden_states_image")
        t: Tensor | None = kwargs.get("timestep")
        cache, blocks = kwargs.get("cache"), kwargs.get("frames_per_block")
        call = Call(
            shape=tuple(x.shape),
            text=0 if text is None else text.shape[1],
            image=0 if image is None else image.shape[1],
            times=1 if t is None or t.ndim < 2 else t.shape[1],
            past=0 if cache is None else cache.visible_frames(x.shape[2]),
            blocks=() if blocks is None else block_bounds(x.shape[2], blocks),
            clean=kwargs.get("clean_hidden_states") is not None,
            commit=kwargs.get("write_cache", False),
            reused=cache is not None and not torch.is_grad_enabled() and cache.knows_condition((text, image)),
        )
        if call not in self._known:
            self._known[call] = self._count(call)
        return self._known[call]

    def _count(self, call: Call) -> int:
        batch, _, frames, height, width = call.shape
        per_frame = (height // self.patch[1]) * (width // self.patch[2])
        context = call.text + call.image
        clean = call.blocks[-1][0] if call.clean else 0
        pairs = causal_pairs(call.blocks) if call.blocks else frames * (frames + call.past)
        clean_pairs = causal_pairs(call.blocks[:-1]) if call.clean else 0
        in_last = 0 if call.commit else frames  # frames whose output the last layer computes
        query = self.last_layer["video"] - self.last_layer["key_value"]
        products = (
            (clean + frames) * per_frame * (self.weights["video"] - self.head - query)
            + in_last * per_frame * (query + self.head)
            + (clean + frames if call.clean else call.times) * self.weights["time"]
        )
        if not call.reused:
            unused = self.last_layer if call.commit else {"text": 0, "image": 0}
            products += call.text * (self.weights["text"] - unused["text"])
            products += call.image * (self.weights["image"] - unused["image"])
        layers = max(self.layers - 1, 0)  # before the last
        attended = layers * ((pairs + clean_pairs) * per_frame**2 + (clean + frames) * per_frame * context)
        if self.layers and not call.commit:
            attended += pairs * per_frame**2 + frames * per_frame * context
        return batch * (2 * products + 4 * self.width * attended)
