"""Do samples of one prompt differ from each other as real clips do."""

from __future__ import annotations

import numpy as np


def same_group_distance(x: np.ndarray, groups: np.ndarray) -> float:
    """Mean distance between different rows of `[N, K]` with the same group index `[N]`. NaN when no two rows share a
    group.
    """
    same = groups[:, None] == groups[None]
    i, j = np.nonzero(np.triu(same, 1))
    return float(np.linalg.norm(x[i] - x[j], axis=1).mean()) if len(i) else float("nan")


def diversity(x: np.ndarray, prompts: np.ndarray, real: np.ndarray, kinds: np.ndarray) -> float:
    """Spread of samples that share a prompt over the spread of real clips that share a kind; 1 = as varied as real
    clips, 0 = copies.

    `x [N, K]` with `prompts [N]`; `real [M, K]` with `kinds [M]`: what a prompt fixes of the features (for moving
    digits, the digit; the features are then of handwriting only, which nothing else in the caption touches).
    """
    return same_group_distance(x, prompts) / max(same_group_distance(real, kinds), 1e-9)


def mode_coverage(shown: np.ndarray, real: np.ndarray) -> float:
    """Overlap of two histograms of modes: 1 = each as often as in real clips, ¼ = only one of four.

    `shown [N]` and `real [M]` name each clip's mode, among captions that leave it open. Only such captions can tell a
    sampler that drops modes from one that keeps them; every other metric averages them away.
    """
    modes = np.union1d(shown, real)
    share = (np.mean(shown[:, None] == modes, axis=0), np.mean(real[:, None] == modes, axis=0))
    return float(np.minimum(*share).sum())
