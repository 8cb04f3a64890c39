"""Clips as MP4 files, which W&B plays (it takes no WebP)."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageSequence

from harness.io import atomic_write_bytes

PREVIEW_FPS = 8.0
SMALLEST = 96  # pixels: smaller clips are enlarged


def write_mp4(path: Path, video: np.ndarray, fps: float) -> None:
    """Write uint8 `[F, H, W, 3]`; an odd last row or column is cut, because H.264 takes even sizes only."""
    factor = max(1, SMALLEST // max(video.shape[1:3]))
    large = video.repeat(factor, axis=1).repeat(factor, axis=2)
    even = large[:, : large.shape[1] // 2 * 2, : large.shape[2] // 2 * 2]
    atomic_write_bytes(
        path, iio.imwrite("<bytes>", even, extension=".mp4", plugin="FFMPEG", fps=fps, macro_block_size=1)
    )


def read_animation(path: Path) -> tuple[np.ndarray, float]:
    """Frames of an animated image as uint8 `[F, H, W, 3]`, and frames per second."""
    with Image.open(path) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        milliseconds = image.info.get("duration") or 1000 / PREVIEW_FPS
    return np.stack(frames), 1000 / milliseconds
