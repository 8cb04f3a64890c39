"""Small random Wan networks, conditions, the golden files, and rollouts, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition, pad_text
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.models.original_names import to_diffusers

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}
SMALL_I2V = {**SMALL, "in_channels": 7, "image_dim": 6, "added_kv_proj_dim": 24}
ROWS, COLUMNS = 2, 4  # latent pixels of the small clips: 1 × 2 tokens per frame


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter a random value, norm scales and modulations too, so that none can be left out unnoticed."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.1
            parameter.normal_(0.0, scale).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def small_wan(cls: type = CausalWan, seed: int = 0, **changes) -> CausalWan:
    """A random small network of class `cls`."""
    torch.manual_seed(seed)
    model = cls(**{**SMALL, **changes})
    randomize(model)
    return model


def small_condition(
    batch: int = 2, seed: int = 1, frames: int | None = None, length: int = 12, size: tuple[int, int] = (ROWS, COLUMNS)
) -> Condition:
    """Five real text tokens, zero-padded; with `frames` also image tokens and `y` (image to video)."""
    rng = torch.Generator().manual_seed(seed)
    text = pad_text(torch.randn(batch, 5, SMALL["text_dim"], generator=rng), length)
    if frames is None:
        return Condition(text=text)
    return Condition(
        text=text,
        image_tokens=torch.randn(batch, 3, SMALL_I2V["image_dim"], generator=rng),
        y=torch.randn(batch, 3, frames, *size, generator=rng),
    )


def small_latent(frames: int, batch: int = 2, seed: int = 2, size: tuple[int, int] = (ROWS, COLUMNS)) -> torch.Tensor:
    """Noise `[B, 4, frames, 2, 4]`, or of another `size`."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, SMALL["out_channels"], frames, *size, generator=rng)


def cached_rollout(model, clean, noisy, t, bounds, condition, cache: KVCache, switch: tuple | None = None):
    """Per block: velocity of the noisy block at `t` `[B]` given the cache, then commit the clean block at t = 0.

    `switch` is (frame, condition): the prompt from that frame on.
    """
    velocities = []
    for start, end in bounds:
        if switch is not None and start >= switch[0]:
            condition = switch[1]
        block = slice(start, end)
        arguments = {"cache": cache, "frame_offset": start}
        velocities.append(predict_velocity(model, noisy[:, :, block], t, condition, **arguments))
        predict_velocity(model, clean[:, :, block], torch.zeros_like(t), condition, write_cache=True, **arguments)
    return torch.cat(velocities, dim=2)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in units of the expected values' standard deviation; infinite for NaN."""
    error = float((actual - expected).abs().max() / expected.std())
    return error if error == error else float("inf")


def golden_wan(name: str) -> tuple[CausalWan, dict[str, torch.Tensor], Condition]:
    """The network of `wan_<name>.safetensors`, its tensors (float32) and its condition with the text padded to 512."""
    tensors = {key: value.float() for key, value in load_file(GOLDEN / f"wan_{name}.safetensors").items()}
    weights = {key.removeprefix("weights."): v for key, v in tensors.items() if key.startswith("weights.")}
    image = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 96} if name == "i2v" else {}
    with torch.device("meta"):
        model = CausalWan(
            **{
                "num_attention_heads": 4,
                "attention_head_dim": 24,
                "in_channels": 16,
                "out_channels": 16,
                "text_dim": 48,
                "freq_dim": 256,
                "ffn_dim": 160,
                "num_layers": 3,
                **image,
            }
        )
    model.load_state_dict(to_diffusers(weights), strict=True, assign=True)
    return model, tensors, Condition(text=pad_text(tensors["text"], 512), image_tokens=tensors.get("image_tokens"))
