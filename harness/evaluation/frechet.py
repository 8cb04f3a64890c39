"""Fréchet distance between two sets of features (FID, 1706.08500; FVD, 1812.01717), without most of its small-sample
bias.
"""

from __future__ import annotations

import numpy as np

HALVINGS = 6  # random halves that estimate the bias


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(0), np.cov(x, rowvar=False)


def frechet_from_moments(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    """‖μx − μy‖² + tr(Cx + Cy − 2 (Cx^½ Cy Cx^½)^½), for means `[K]` and covariances `[K, K]`."""
    values, vectors = np.linalg.eigh(cov_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    return float(np.square(mean_x - mean_y).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The plain estimate from features `[N, K]` and `[M, K]`; biased upwards by about 1/N."""
    return frechet_from_moments(*_moments(x), *_moments(y))


def frechet_unbiased(x: np.ndarray, y: np.ndarray, halvings: int = HALVINGS) -> float:
    """Extrapolated to infinitely many clips (after Chong and Forsyth, 1911.07023, with two sizes).

    The bias is nearly proportional to 1/N, so twice the estimate at full size minus the one at half size removes it;
    the half-size one is averaged over random halves from a fixed seed. May be slightly negative when the sets do not
    differ.
    """
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(halvings):
        i, j = rng.permutation(len(x)), rng.permutation(len(y))
        for part in (0, 1):
            halves.append(frechet(x[i[part::2]], y[j[part::2]]))
    return 2 * frechet(x, y) - float(np.mean(halves))
