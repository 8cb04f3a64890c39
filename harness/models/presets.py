"""Named Wan geometries: layers, heads and channels always come from here (or from a checkpoint's config)."""

from __future__ import annotations

import torch
from attrs import asdict, evolve, frozen

from harness.errors import HarnessError
from harness.models.causal_wan import CausalWan
from harness.models.condition import POSITION_CHANNELS


@frozen(kw_only=True)
class WanGeometry:
    """Constructor arguments of `WanTransformer3DModel`; the defaults are Wan2.1-T2V-14B's (arXiv 2503.20314)."""

    num_attention_heads: int = 40
    attention_head_dim: int = 128
    num_layers: int = 40
    ffn_dim: int = 13824
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    cross_attn_norm: bool = True
    qk_norm: str = "rms_norm_across_heads"
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens of one latent frame of `height` × `width` latent pixels."""
        return (height // self.patch_size[1]) * (width // self.patch_size[2])


_I2V_14B = WanGeometry(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
_TINY = WanGeometry(
    num_attention_heads=4,
    attention_head_dim=24,
    num_layers=4,
    ffn_dim=256,
    in_channels=16 + POSITION_CHANNELS,
    text_dim=64,
    freq_dim=64,
)

MODELS: dict[str, WanGeometry] = {
    "tiny": _TINY,
    "tiny-i2v": evolve(_TINY, in_channels=16 + 20 + POSITION_CHANNELS, image_dim=64, added_kv_proj_dim=96),
    "wan2.1-t2v-1.3b": WanGeometry(num_attention_heads=12, num_layers=30, ffn_dim=8960),
    "wan2.1-t2v-14b": WanGeometry(),
    "wan2.1-i2v-14b-480p": _I2V_14B,
    "wan2.1-i2v-14b-720p": _I2V_14B,
    "wan2.2-ti2v-5b": WanGeometry(
        num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48
    ),
}


def geometry(name: str) -> WanGeometry:
    """The preset called `name`; `HarnessError` with the known names otherwise."""
    if name not in MODELS:
        raise HarnessError(f"model: no preset is called {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name]


def build_model(name: str, *, device: torch.device | str | None = None, zero_output: bool = True) -> CausalWan:
    """A randomly initialised network of a preset, from torch's global generator (seed it first).

    `device="meta"` allocates nothing. With `zero_output` the last projection starts at zero, as in Wan's own
    initialisation: the untrained network predicts a velocity of 0. Raises `HarnessError` for an unknown name.
    """
    with torch.device(device if device is not None else "cpu"):
        model = CausalWan(**asdict(geometry(name)))
    if zero_output:
        torch.nn.init.zeros_(model.proj_out.weight)
        torch.nn.init.zeros_(model.proj_out.bias)
    return model
