"""Floating point operations of a denoiser's forward pass, from its shapes: matrix products and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

TEXT_PARTS = ("attn2.to_k", "attn2.to_v", "text_embedder")
IMAGE_PARTS = ("add_k_proj", "add_v_proj", "image_embedder")
TIME_PARTS = ("time_embedder", "time_proj")


def matmul_parameters(network: nn.Module) -> dict[str, int]:
    """Weights of all matrix products by what they apply to: `video`, `text` or `image` tokens, or the `time` embedding.

    Layers that are not named as in diffusers' Wan count as applied to video tokens.
    """
    counts = {"video": 0, "text": 0, "image": 0, "time": 0}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            applied_to = "video"
            for kind, parts in (("text", TEXT_PARTS), ("image", IMAGE_PARTS), ("time", TIME_PARTS)):
                if any(part in name for part in parts):
                    applied_to = kind
            counts[applied_to] += module.weight.numel()
    return counts


def causal_pairs(frames: int, frames_per_block: int | Sequence[int]) -> int:
    """Pairs (query frame, key frame) under a block-causal mask; the last block may be shorter."""
    sizes = frames_per_block if isinstance(frames_per_block, Sequence) else (frames_per_block, frames_per_block)
    pairs = end = 0
    size = sizes[0]
    while end < frames:
        block = min(size, frames - end)
        end += block
        pairs += block * end
        size = sizes[1]
    return pairs


class DenoiserCost:
    """The cost of one forward pass of a network, as a function of the call's arguments.

    Geometry comes from the network's config; a network without one is counted by its matrix products alone. Read before
    any FSDP wrapping, because shards hide the shapes.
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights = matmul_parameters(network)
        config = dict(getattr(network, "config", {}))
        self.patch: tuple[int, int, int] = tuple(config.get("patch_size", (1, 1, 1)))  # type: ignore[assignment]
        self.layers = config.get("num_layers", 0)
        self.width = config.get("num_attention_heads", 0) * config.get("attention_head_dim", 0)
        self._known: dict[tuple[Any, ...], int] = {}

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """FLOPs of `network(*args, **kwargs)`, forward only (diffusers' argument names)."""
        x: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        text: Tensor | None = kwargs.get("encoder_hidden_states")
        image: Tensor | None = kwargs.get("encoder_hidden_states_image")
        t: Tensor | None = kwargs.get("timestep")
        cache = kwargs.get("cache")
        blocks = kwargs.get("frames_per_block")
        key = (
            tuple(x.shape),
            None if text is None else text.shape[1],
            0 if image is None else image.shape[1],
            1 if t is None or t.ndim < 2 else t.shape[1],
            0 if cache is None else cache.visible_frames(x.shape[2]),
            blocks if blocks is None or isinstance(blocks, int) else tuple(blocks),
            kwargs.get("clean_hidden_states") is not None,
        )
        if key not in self._known:
            self._known[key] = self._count(*key)
        return self._known[key]

    def _count(
        self,
        shape: tuple[int, ...],  # [B, C, F, H, W]
        text: int | None,
        image: int,
        times: int,
        past: int,
        blocks: int | tuple[int, ...] | None,
        clean: bool,
    ) -> int:
        batch, _, frames, height, width = shape
        per_frame = (height // self.patch[1]) * (width // self.patch[2])
        pairs = frames * (frames + past) if blocks is None else causal_pairs(frames, blocks)
        copies = 2 if clean else 1  # [clean ‖ noisy]
        tokens = copies * frames * per_frame
        products = (
            tokens * self.weights["video"]
            + (text or 0) * self.weights["text"]
            + image * self.weights["image"]
            + times * self.weights["time"]
        )
        attended = copies * pairs * per_frame**2 + tokens * ((text or 0) + image)
        return batch * (2 * products + 4 * self.layers * self.width * attended)
