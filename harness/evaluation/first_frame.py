"""Does a clip begin with the image that it was given: PSNR and structural similarity of its first frame."""

from __future__ import annotations

import numpy as np
import torch
from attrs import frozen
from torch import Tensor
from torch.nn import functional as F

SMALLEST_ERROR = 1 / (12 * 255**2)  # mean square of rounding to 8 bits: no PSNR above 58.9 dB means anything
WINDOW, SIGMA = 11, 1.5  # of the structural similarity, in pixels, as published
LUMINANCE, CONTRAST = 0.01**2, 0.03**2


@frozen(kw_only=True, eq=False)
class ImageMeasurements:
    """How B clips keep to the images that they were given. Float64 numpy, one row per clip."""

    psnr: np.ndarray  # [B], of the first frame, dB
    ssim: np.ndarray  # [B], of the first frame
    identity: np.ndarray | None = None  # [B, F], see `image_identity_by_frame`; None where the clips have no digits


def psnr(frames: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of `frames` against `images`, both `[B, 3, H, W]` in [0, 1]: `[B]` dB, at most 58.9.

    Raises `ValueError` when the shapes differ.
    """
    _check(frames, images)
    error = (frames.double() - images.double()).square().mean((1, 2, 3))
    return -10 * error.clamp_min(SMALLEST_ERROR).log10()


def ssim(frames: Tensor, images: Tensor) -> Tensor:
    """Mean structural similarity of `frames` to `images`, both `[B, 3, H, W]` in [0, 1]: `[B]`, 1 = the same.

    Wang et al. (2004), over the color channels: a Gaussian window of 11 × 11 pixels, only where it lies wholly inside
    (a smaller window in a smaller picture). Flat black resembles flat black, so that an empty frame is not at 0 where
    the image has a black background. Raises `ValueError` when the shapes differ.
    """
    _check(frames, images)
    x, y = frames.double(), images.double()
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x.square()
    variance_y = _local_mean(y * y) - mean_y.square()
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE) / (mean_x.square() + mean_y.square() + LUMINANCE)
    structure = (2 * covariance + CONTRAST) / (variance_x + variance_y + CONTRAST)
    return (luminance * structure).mean((1, 2, 3))


def _local_mean(images: Tensor) -> Tensor:
    """Gaussian-weighted mean around every pixel whose window lies inside `[B, C, H, W]`."""
    for dim, size in enumerate(images.shape[2:]):
        window = min(WINDOW, size - (size + 1) % 2)  # odd
        places = torch.arange(window, dtype=images.dtype) - window // 2
        weights = torch.exp(-places.square() / (2 * SIGMA**2))
        kernel = (weights / weights.sum()).view(1, 1, *((window, 1) if dim == 0 else (1, window)))
        images = F.conv2d(images, kernel.expand(images.shape[1], -1, -1, -1), groups=images.shape[1])
    return images


def _check(frames: Tensor, images: Tensor) -> None:
    if frames.shape != images.shape:
        raise ValueError(f"first frames are {list(frames.shape)}, the given images {list(images.shape)}")
