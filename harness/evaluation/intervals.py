"""95 % intervals over clips: bootstrap for means, grouped jackknife for distances between sets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen
from scipy import stats

RESAMPLES = 1000
GROUPS = 12


@frozen
class Estimate:
    """A value with its 95 % interval over clips (not over training seeds)."""

    value: float
    low: float
    high: float

    def clipped(self, lowest: float, highest: float) -> Estimate:
        """With an interval that does not leave the metric's range."""
        return Estimate(self.value, max(self.low, lowest), min(self.high, highest))

    def scaled(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """Mean of one number per clip `[N]` with its percentile interval; the resampling is seeded."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES)
    low, high = np.percentile(counts @ values / len(values), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def jackknife(
    statistics: Callable[[np.ndarray], dict[str, float]], count: int, groups: int = GROUPS
) -> dict[str, Estimate]:
    """Every one of `statistics(indices)` for all `count` clips, with a t interval from leaving out one of `groups`
    random groups at a time.

    Resampling with replacement is wrong for distances between sets: it makes copies, and copies are what recall and
    the Fréchet distance punish. A statistic that a smaller set does not give has no interval (low = value = high).
    """
    values = statistics(np.arange(count))
    groups = min(groups, count)
    group = np.random.default_rng(0).permutation(np.arange(count) % max(groups, 1))
    parts = [statistics(np.flatnonzero(group != g)) for g in range(groups)] if groups >= 3 else []
    result = {}
    for name, value in values.items():
        left_out = np.array([part[name] for part in parts if name in part])
        half = 0.0
        if len(left_out) == groups >= 3:
            error = np.sqrt((groups - 1) / groups * np.square(left_out - left_out.mean()).sum())
            half = float(stats.t.ppf(0.975, groups - 1) * error)
        result[name] = Estimate(value, value - half, value + half)
    return result


def pooled(estimates: list[Estimate]) -> Estimate:
    """Mean over independent repeats; the interval narrows with their number."""
    n = len(estimates)
    value = sum(e.value for e in estimates) / n
    low = np.sqrt(sum((e.value - e.low) ** 2 for e in estimates)) / n
    high = np.sqrt(sum((e.high - e.value) ** 2 for e in estimates)) / n
    return Estimate(value, value - float(low), value + float(high))
