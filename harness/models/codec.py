"""Pixels ↔ latents, in Wan's layout: frame 0 alone, then groups of four frames, `[B, C, 1 + (F − 1)/4, H/s, W/s]`.

`AutoencoderKLWan` is the real VAE. `PCACodec` is an honest small stand-in behind the same interface: linear, fitted in
closed form on training clips, no learned nonlinearity; it makes a CPU default possible in which every other part is the
real one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from attrs import frozen
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.io import read_json


class PCACodec(ModelMixin, ConfigMixin):
    """Principal components of space-time patches: one basis for frame 0, one for groups of four frames.

    Both bases have orthonormal columns, so decoding is the transpose. Deterministic: the posterior has no spread.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        spatial_factor: int = 4,
        temporal_factor: int = 4,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        patch = 3 * spatial_factor**2
        self.first_basis = nn.Parameter(torch.zeros(patch, z_dim), requires_grad=False)
        self.first_mean = nn.Parameter(torch.zeros(patch), requires_grad=False)
        self.group_basis = nn.Parameter(torch.zeros(patch * temporal_factor, z_dim), requires_grad=False)
        self.group_mean = nn.Parameter(torch.zeros(patch * temporal_factor), requires_grad=False)

    def _patches(self, video: Tensor) -> Tensor:
        """`[B, 3, T, H, W]` → `[B, h, w, T·s·s·3]`."""
        s = self.config["spatial_factor"]
        b, c, t, h, w = video.shape
        return video.view(b, c, t, h // s, s, w // s, s).permute(0, 3, 5, 2, 4, 6, 1).reshape(b, h // s, w // s, -1)

    def _pixels(self, patches: Tensor, frames: int) -> Tensor:
        """The inverse of `_patches`."""
        s = self.config["spatial_factor"]
        b, h, w, _ = patches.shape
        return patches.view(b, h, w, frames, s, s, 3).permute(0, 6, 3, 1, 4, 2, 5).reshape(b, 3, frames, h * s, w * s)

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Video `[B, 3, F, H, W]` in [−1, 1], F = 1 + 4k → a posterior whose mode is `[B, C, 1 + k, H/s, W/s]`."""
        check_geometry(
            x.shape[2], x.shape[3], x.shape[4], self.config["spatial_factor"], self.config["temporal_factor"]
        )
        step = self.config["temporal_factor"]
        latents = [(self._patches(x[:, :, :1]) - self.first_mean) @ self.first_basis]
        for start in range(1, x.shape[2], step):
            latents.append((self._patches(x[:, :, start : start + step]) - self.group_mean) @ self.group_basis)
        mean = torch.stack(latents, dim=1).permute(0, 4, 1, 2, 3).contiguous()  # [B, C, F', h, w]
        no_spread = torch.full_like(mean, -30.0)
        return AutoencoderKLOutput(
            latent_dist=DiagonalGaussianDistribution(torch.cat([mean, no_spread], dim=1), deterministic=True)
        )

    def decode(self, z: Tensor) -> DecoderOutput:
        """Latents `[B, C, F', h, w]` → video in `.sample`, `[B, 3, 1 + 4(F' − 1), H, W]`, clamped to [−1, 1]."""
        step = self.config["temporal_factor"]
        codes = z.permute(0, 2, 3, 4, 1)  # [B, F', h, w, C]
        frames = [self._pixels(codes[:, 0] @ self.first_basis.T + self.first_mean, 1)]
        frames += [
            self._pixels(codes[:, i] @ self.group_basis.T + self.group_mean, step) for i in range(1, codes.shape[1])
        ]
        return DecoderOutput(sample=torch.cat(frames, dim=2).clamp(-1, 1))


VAE = PCACodec | AutoencoderKLWan


@frozen
class LatentScale:
    """Per-channel mean and standard deviation of raw latents, `[C]` each."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Both as `[1, C, 1, 1, 1]`, on the device and in the dtype of `like`."""
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.mean, device=like.device, dtype=like.dtype).view(shape)
        return mean, torch.tensor(self.std, device=like.device, dtype=like.dtype).view(shape)


def latent_scale(vae: VAE) -> LatentScale:
    """`latents_mean` and `latents_std` of the VAE's config. Raises HarnessError when it has none."""
    mean, std = vae.config["latents_mean"], vae.config["latents_std"]
    if mean is None or std is None:
        raise HarnessError("the VAE's config.json has no latents_mean / latents_std: latents cannot be normalised")
    return LatentScale(tuple(mean), tuple(std))


def check_geometry(frames: int, height: int, width: int, spatial: int = 8, temporal: int = 4) -> None:
    """A VAE drops trailing frames silently (80 → 77): refuse what does not divide."""
    if (frames - 1) % temporal or height % spatial or width % spatial:
        raise HarnessError(
            f"a clip of {frames} frames of {height}×{width} does not fit the VAE: frames must be 1 + {temporal}k and "
            f"height and width multiples of {spatial}. Change data.frames, data.height or data.width."
        )


@torch.no_grad()
def encode_video(vae: VAE, video: Tensor) -> Tensor:
    """Video `[B, 3, F, H, W]` in [−1, 1] → normalised latents `[B, C, F', h, w]` (the posterior's mode)."""
    output = vae.encode(video)
    raw = output.latent_dist.mode()  # type: ignore[union-attr]
    mean, std = latent_scale(vae).tensors(raw)
    return (raw - mean) / std


@torch.no_grad()
def decode_latents(vae: VAE, latents: Tensor) -> Tensor:
    """Normalised latents `[B, C, F', h, w]` → video `[B, 3, F, H, W]` in [−1, 1]."""
    mean, std = latent_scale(vae).tensors(latents)
    output = vae.decode(latents * std + mean)
    return output.sample  # type: ignore[union-attr]


@torch.no_grad()
def as_first_latent(vae: VAE, latents: Tensor) -> Tensor:
    """The last pixel frame of normalised latents `[B, C, F', h, w]`, encoded as the first of a clip: `[B, C, 1, h, w]`.

    A latent frame from the middle of a video stands for four pixel frames, the first one of a clip for an image. The
    frames before the last give the decoder its past; it takes the first of them for the start of a clip. Computed in
    the VAE's own precision.
    """
    with torch.autocast(latents.device.type, enabled=False):
        video = decode_latents(vae, latents.to(vae.dtype))
        return encode_video(vae, video[:, :, -1:]).to(latents.dtype)


def to_pixels(video: Tensor) -> np.ndarray:
    """Video `[B, 3, F, H, W]` in [−1, 1] → uint8 `[B, F, H, W, 3]`."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()


def from_pixels(video: np.ndarray) -> Tensor:
    """uint8 `[B, F, H, W, 3]` → float32 `[B, 3, F, H, W]` in [−1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def load_vae(folder: str | Path) -> VAE:
    """A VAE from a diffusers folder; its `config.json` names the class. Raises HarnessError for anything else."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise HarnessError(
            f"{path}: no such file. Expected a diffusers VAE folder; `dvc repro encoders` makes the tiny one."
        )
    name = read_json(path, keys=("_class_name",))["_class_name"]
    classes = {"PCACodec": PCACodec, "AutoencoderKLWan": AutoencoderKLWan}
    if name not in classes:
        raise HarnessError(f"{path}: _class_name is {name!r}, expected one of {', '.join(classes)}")
    try:
        vae = classes[name].from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise HarnessError(
            f"{folder}: the VAE cannot be read ({str(error).splitlines()[0]}). "
            "Run `dvc checkout` or `dvc repro encoders`"
        ) from error
    return vae.eval().requires_grad_(False)


def _principal(patches: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean `[D]` and the leading `count` principal directions `[D, count]`, in float64."""
    x = patches.reshape(-1, patches.shape[-1]).double()
    mean = x.mean(0)
    centered = x - mean
    _, vectors = torch.linalg.eigh(centered.T @ centered / len(x))
    basis = vectors.flip(-1)[:, :count]
    signs = torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))  # eigenvectors have no sign: fix one
    return mean, basis * signs


def fit_pca(videos: Tensor, *, channels: int, spatial_factor: int = 4, temporal_factor: int = 4) -> PCACodec:
    """Fit a `PCACodec` on clips `[N, 3, F, H, W]` in [−1, 1].

    Frame 0's basis is rotated (orthogonal Procrustes) so that its codes lie as near as possible to those of the group
    that follows: a still object then has nearly the same latent in both, as in a learned causal VAE.
    """
    codec = PCACodec(z_dim=channels, spatial_factor=spatial_factor, temporal_factor=temporal_factor)
    check_geometry(videos.shape[2], videos.shape[3], videos.shape[4], spatial_factor, temporal_factor)
    first = codec._patches(videos[:, :, :1])
    starts = range(1, videos.shape[2], temporal_factor)
    groups = torch.stack([codec._patches(videos[:, :, s : s + temporal_factor]) for s in starts])
    stills = videos[:, :, ::temporal_factor].transpose(1, 2).flatten(0, 1).unsqueeze(2)  # [N·F', 3, 1, H, W]
    first_mean, first_basis = _principal(codec._patches(stills), channels)
    group_mean, group_basis = _principal(groups, channels)
    a = ((first.double() - first_mean) @ first_basis).reshape(-1, channels)
    b = ((groups[0].double() - group_mean) @ group_basis).reshape(-1, channels)
    u, _, vt = torch.linalg.svd(a.T @ b)
    codec.first_basis.copy_((first_basis @ (u @ vt)).float())
    codec.first_mean.copy_(first_mean.float())
    codec.group_basis.copy_(group_basis.float())
    codec.group_mean.copy_(group_mean.float())
    raw = codec.encode(videos).latent_dist.mode()  # type: ignore[union-attr]
    codec.register_to_config(
        latents_mean=raw.mean((0, 2, 3, 4)).tolist(), latents_std=raw.std((0, 2, 3, 4)).clamp_min(1e-4).tolist()
    )
    return codec.eval().requires_grad_(False)
