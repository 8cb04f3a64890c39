"""Precision and recall by nearest-neighbor manifolds (Kynkäänniemi et al., 1904.06991): are samples real, are all reals
covered.
"""

from __future__ import annotations

import numpy as np

NEIGHBORS = 3


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances `[N, M]` between rows of `[N, K]` and `[M, K]`."""
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T
    return np.sqrt(squared.clip(0))


def _radii(within: np.ndarray, neighbors: int) -> np.ndarray:
    """Distance to the k-th nearest other row, `[N]`."""
    return np.partition(within, neighbors, axis=1)[:, neighbors]


def precision_recall(x: np.ndarray, y: np.ndarray, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Precision and recall of samples `[N, K]` against real `[M, K]`, both in 0…1. Needs more than `neighbors` rows in
    each.

    Precision: the share of samples that lie within reach of a real clip (its distance to its k-th neighbor). Recall:
    the share of real clips within reach of a sample; copies reach nowhere, so collapse shows here.
    """
    between = distances(x, y)
    real, made = _radii(distances(y, y), neighbors), _radii(distances(x, x), neighbors)
    precision = (between <= real[None]).any(1).mean()
    recall = (between <= made[:, None]).any(0).mean()
    return float(precision), float(recall)
