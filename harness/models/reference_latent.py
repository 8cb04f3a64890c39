"""`y` of Wan2.1 image to video: what is known of each latent frame, and the first frame's latent (arXiv 2503.20314).

`y` has 4 mask channels, then the 16 of the latent, and is joined on channels to the noisy latent: 16 + 20 = 36.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.models.codec import VAE, check_geometry, encode_video


def reference_mask(latent_frames: int, height: int, width: int, temporal_factor: int = 4) -> Tensor:
    """Which pixel frames are given, `[temporal_factor, F', h, w]`: 1 in the first latent frame, 0 after.

    The pixel frames behind a latent one are folded into channels; the first latent frame, which is one pixel frame, has
    it repeated.
    """
    mask = torch.zeros(temporal_factor, latent_frames, height, width)
    mask[:, 0] = 1.0
    return mask


def still_and_nothing(image: Tensor, frames: int) -> Tensor:
    """Video `[B, 3, frames, H, W]` of `image` `[B, 3, H, W]` followed by zeros, which is mid-gray."""
    batch, channels, height, width = image.shape
    video = image.new_zeros(batch, channels, frames, height, width)
    video[:, :, 0] = image
    return video


def factors(vae: VAE) -> tuple[int, int]:
    """How many pixels and how many pixel frames one latent pixel stands for."""
    config = vae.config
    spatial = config["spatial_factor"] if "spatial_factor" in config else config["scale_factor_spatial"]
    temporal = config["temporal_factor"] if "temporal_factor" in config else config["scale_factor_temporal"]
    return spatial, temporal


def reference_latent(vae: VAE, image: Tensor, frames: int) -> Tensor:
    """`y` `[B, 4 + C, 1 + (frames − 1)/4, H/s, W/s]` of first frames `image` `[B, 3, H, W]` in [−1, 1].

    `frames` is the clip's length in pixel frames, of any length 1 + 4k: past the training length zeros are encoded all
    the same. The factors 4 and s are the VAE's; its latents are normalised (the posterior's mode).

    Raises:
        HarnessError: the length or the size does not fit the VAE.
    """
    spatial, temporal = factors(vae)
    check_geometry(frames, *image.shape[2:], spatial=spatial, temporal=temporal)
    latent = encode_video(vae, still_and_nothing(image, frames))
    mask = reference_mask(*latent.shape[2:], temporal_factor=temporal)
    return torch.cat([mask.to(latent).expand(len(latent), -1, -1, -1, -1), latent], dim=1)
