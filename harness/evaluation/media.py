"""Clips as files that people can look at."""

from __future__ import annotations

import io
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from harness.errors import HarnessError
from harness.io import atomic_write_bytes

SUFFIXES = (".webp", ".gif", ".mp4", ".png")


def enlarge(video: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel of uint8 `[F, H, W, 3]` `factor` times in both directions: nothing is smoothed away."""
    return video.repeat(factor, axis=1).repeat(factor, axis=2)


def scale_for(height: int, width: int) -> int:
    """Enlargement that makes a small clip visible: ×4 at 24 pixels, none above 200."""
    return max(1, min(4, 200 // max(height, width)))


def animation(video: np.ndarray, fps: float, kind: str) -> bytes:
    """Encode uint8 `[F, H, W, 3]` as a looping `webp` (lossless) or `gif`."""
    frames = [Image.fromarray(frame) for frame in video]
    buffer = io.BytesIO()
    options = {"lossless": True, "quality": 80, "method": 4} if kind == "webp" else {"optimize": False}
    frames[0].save(
        buffer, kind.upper(), save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, **options
    )
    return buffer.getvalue()


def film_strip(video: np.ndarray, columns: int = 9) -> np.ndarray:
    """Frames of uint8 `[F, H, W, 3]` at equal distances, side by side in one image `[H, columns·W, 3]`."""
    index = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)
    return np.concatenate(list(video[index]), axis=1)


def save_video(path: str | Path, video: np.ndarray, fps: float) -> None:
    """Write uint8 `[F, H, W, 3]` as webp, gif, mp4 or png (a film strip), by the suffix.

    Raises HarnessError for another suffix. An existing file is replaced whole.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise HarnessError(
            f"{path}: cannot write {kind or 'a file without suffix'}; expected one of {', '.join(SUFFIXES)}"
        )
    if kind == ".png":
        data = iio.imwrite("<bytes>", film_strip(video), extension=".png")
    elif kind == ".mp4":
        even = video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]  # H.264 takes even sizes only
        data = iio.imwrite("<bytes>", even, extension=".mp4", plugin="FFMPEG", fps=fps, macro_block_size=1)
    else:
        data = animation(video, fps, kind[1:])
    atomic_write_bytes(path, data)
