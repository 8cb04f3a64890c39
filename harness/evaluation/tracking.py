"""Follow one object on a torus: where it is, how it moves, and the clip as seen from it.

The position is the phase of the image's first spatial harmonic (the circular center of mass). A uniform background
has no first harmonic and a sub-pixel shift changes exactly this phase, so the tracker has neither a threshold nor a
grid bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _first_harmonic(profile: Tensor) -> Tensor:
    """Complex first Fourier coefficient of `[..., L]`."""
    angle = 2 * math.pi * torch.arange(profile.shape[-1], dtype=profile.dtype) / profile.shape[-1]
    return torch.complex((profile * angle.cos()).sum(-1), (profile * angle.sin()).sum(-1))


def positions(video: Tensor) -> Tensor:
    """Circular center of mass of every frame: `[B, 3, F, H, W]` (brightness, 0 = background) → `[B, F, 2]` pixels (y,
    x).
    """
    gray = video.mean(1)  # [B, F, H, W]
    height, width = gray.shape[-2:]
    y = _first_harmonic(gray.sum(-1)).angle() * height / (2 * math.pi)
    x = _first_harmonic(gray.sum(-2)).angle() * width / (2 * math.pi)
    return torch.stack([y % height, x % width], dim=-1)


def displacements(positions: Tensor, height: int, width: int) -> Tensor:
    """Shortest way on the torus from each frame to the next: `[B, F, 2]` → `[B, F − 1, 2]` pixels."""
    size = torch.tensor([height, width], dtype=positions.dtype)
    return (positions.diff(dim=1) + size / 2) % size - size / 2


def centered(video: Tensor, positions: Tensor) -> Tensor:
    """Shift every frame so that its object lies at the canvas center (exact Fourier shift): same shape as `video`."""
    height, width = video.shape[-2:]
    shift_y = height / 2 - positions[..., 0]  # [B, F]
    shift_x = width / 2 - positions[..., 1]
    phase_y = -2 * math.pi * torch.fft.fftfreq(height) * shift_y[..., None]  # [B, F, H]
    phase_x = -2 * math.pi * torch.fft.rfftfreq(width) * shift_x[..., None]  # [B, F, W/2 + 1]
    angle = (phase_y[..., :, None] + phase_x[..., None, :])[:, None]
    spectrum = torch.fft.rfft2(video) * torch.polar(torch.ones_like(angle), angle)
    return torch.fft.irfft2(spectrum, s=(height, width))


def shape_crops(centered: Tensor, size: int) -> Tensor:
    """Gray, contrast-normalised middles of centered frames: `[B, 3, F, H, W]` → `[B, F, size, size]`, brightest pixel
    about 1.

    Each frame is divided by its own peak, so that color and fading do not change the shape that the digit network
    sees. The peak has a floor, so that an empty frame stays empty.
    """
    height, width = centered.shape[-2:]
    top, left = (height - size) // 2, (width - size) // 2
    crop = centered[..., top : top + size, left : left + size]
    color = crop.clamp_min(0).mean((2, 3, 4))  # [B, 3]
    color = color / color.norm(dim=1, keepdim=True).clamp_min(1e-6)
    gray = torch.einsum("bcfhw,bc->bfhw", crop, color)
    peak = gray.flatten(2).topk(max(1, size * size // 24), dim=-1).values.mean(-1)
    return gray / peak.clamp_min(0.1)[..., None, None]
