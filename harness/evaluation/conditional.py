"""Conditional two-sample distance: do the samples *given their captions* look like real clips with such captions.

A marginal distance cannot see captions that were swapped between good clips. Here clips are compared within the
groups that share a caption attribute, by the energy distance (Székely and Rizzo, 2013), which is zero only for equal
distributions.
"""

from __future__ import annotations

import numpy as np

from harness.evaluation.manifold import distances


def group_weights(a: np.ndarray, b: np.ndarray, share: np.ndarray, within: bool) -> np.ndarray:
    """Weights `[N, M]` of pairs with the same group: every group counts by its `share [G]`, however many clips it has.

    `a [N]`, `b [M]` are group indices. `within`: a pair of a clip with itself does not count (the U-statistic).
    """
    same = (a[:, None] == b[None]).astype(float)
    if within:
        np.fill_diagonal(same, 0.0)
    pairs = np.zeros(len(share))
    np.add.at(pairs, a, same.sum(1))
    return same * (share / pairs.clip(1))[a][:, None]


def conditional_energy(
    x: np.ndarray, groups_x: dict[str, np.ndarray], y: np.ndarray, groups_y: dict[str, np.ndarray]
) -> float:
    """Energy distance of samples `[N, K]` to real `[M, K]` within equal groups, averaged over the groupings.

    `groups_*` maps a grouping (digit, color, …) to every clip's group index. Only groups with at least two clips on
    either side count. Unbiased: about zero, of either sign, when samples and real clips of a caption have one
    distribution. 0 when no group counts.
    """
    xx, yy, xy = distances(x, x), distances(y, y), distances(x, y)
    total, groupings = 0.0, 0
    for name, a in groups_x.items():
        b = groups_y[name]
        size = int(max(a.max(), b.max())) + 1
        na, nb = np.bincount(a, minlength=size), np.bincount(b, minlength=size)
        share = np.where((na > 1) & (nb > 1), na, 0).astype(float)
        if share.sum() == 0:
            continue
        share /= share.sum()
        total += 2 * (group_weights(a, b, share, False) * xy).sum()
        total -= (group_weights(a, a, share, True) * xx).sum() + (group_weights(b, b, share, True) * yy).sum()
        groupings += 1
    return float(total / max(groupings, 1))


def kernel_energy(x: np.ndarray, text_x: np.ndarray, y: np.ndarray, text_y: np.ndarray) -> float:
    """The same for free captions: pairs of clips count by how alike their captions are.

    `text_* [N, D]` are pooled text embeddings. The weight is a Gaussian of their distance, half the real captions'
    median distance wide. A clip is no pair with itself, so m clips of one caption make m(m − 1) pairs among themselves
    but m² with real clips: these are weighed down to the same share, else equal sets would seem nearer than they are.
    """
    apart = distances(text_y, text_y)
    apart = apart[apart > 1e-6]
    width = max(float(np.median(apart)) / 2 if len(apart) else 1.0, 1e-6)
    _, captions = np.unique(np.concatenate([text_x, text_y]).round(4), axis=0, return_inverse=True)
    captions_x, captions_y = captions[: len(x)], captions[len(x) :]
    left_x, left_y = _share_left(captions_x, captions), _share_left(captions_y, captions)

    def mean_distance(a: np.ndarray, text_a: np.ndarray, b: np.ndarray, text_b: np.ndarray, same: np.ndarray) -> float:
        weights = np.exp(-0.5 * np.square(distances(text_a, text_b) / width)) * same
        return float((weights * distances(a, b)).sum() / max(weights.sum(), 1e-12))

    equal = captions_x[:, None] == captions_y[None]
    between = np.where(equal, np.sqrt(left_x[captions_x][:, None] * left_y[captions_y][None]), 1.0)
    return (
        2 * mean_distance(x, text_x, y, text_y, between)
        - mean_distance(x, text_x, x, text_x, 1 - np.eye(len(x)))
        - mean_distance(y, text_y, y, text_y, 1 - np.eye(len(y)))
    )


def _share_left(captions: np.ndarray, every: np.ndarray) -> np.ndarray:
    """For each caption number: (m − 1)/m of its m clips; 0 where it has none."""
    count = np.bincount(captions, minlength=int(every.max()) + 1)
    return (count - 1).clip(0) / count.clip(1)
