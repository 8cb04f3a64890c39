"""Is it the same handwriting from the first frame to the last."""

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
