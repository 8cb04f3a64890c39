"""Is it the same handwriting from the first frame to the last, and is it that of the given image."""

from __future__ import annotations

import numpy as np


def opening(handwriting: np.ndarray) -> np.ndarray:
    """The handwriting that a clip begins with, of unit length: the mean over its first quarter, `[B, F, E]` → `[B,
    E]`.
    """
    start = handwriting[:, : max(1, handwriting.shape[1] // 4)].mean(1)
    return start / np.maximum(np.linalg.norm(start, axis=-1, keepdims=True), 1e-9)


def identity_by_frame(handwriting: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Cosine of every frame's handwriting to that of its clip's opening: `[B, F, E]` → `[B, F]`, 1 = the same.

    `start [B, E]` is the opening of a longer clip from which the frames are; else they are the whole clip. The
    embeddings are centered, so two unrelated digits are at about 0 and a morph ends there.
    """
    return (handwriting * (opening(handwriting) if start is None else start)[:, None]).sum(-1)


def image_identity_by_frame(handwriting: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Cosine of every frame's handwriting `[B, F, E]` to that of the image which its clip was given `[B, E]`: `[B, F]`.

    Both are of unit length and centered, so that another digit is at about 0. A clip that ignores its image but shows
    the digit of its caption is well above: two handwritings of one digit are alike (0.4 on the tiny preset's clips).
    """
    return np.einsum("bfe,be->bf", handwriting, image)
