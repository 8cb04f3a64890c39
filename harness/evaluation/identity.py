"""Is it the same handwriting from the first frame to the last, and is it that of the given image."""

from __future__ import annotations

import numpy as np


def identity_by_frame(handwriting: np.ndarray) -> np.ndarray:
    """Cosine of every frame's handwriting to the mean over the clip's first quarter: `[B, F, E]` → `[B, F]`, 1 = the
    same.

    The embeddings are centered, so two unrelated digits are at about 0 and a morph ends there.
    """
    start = handwriting[:, : max(1, handwriting.shape[1] // 4)].mean(1, keepdims=True)
    start = start / np.maximum(np.linalg.norm(start, axis=-1, keepdims=True), 1e-9)
    return (handwriting * start).sum(-1)


def image_identity_by_frame(handwriting: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Cosine of every frame's handwriting `[B, F, E]` to that of the image which its clip was given `[B, E]`: `[B, F]`.

    Both are of unit length and centered, so that another digit is at about 0. A clip that ignores its image but shows
    the digit of its caption is well above: two handwritings of one digit are alike (0.4 on the tiny preset's clips).
    """
    return np.einsum("bfe,be->bf", handwriting, image)
