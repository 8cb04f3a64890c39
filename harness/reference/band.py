"""The band that a new run of the same kind should stay in, from the few runs there are.

For each signal the updates are cut into windows, and a run is the mean of each window: a loss of one batch says little.
The band is Student's prediction interval for one more run, `m ± t·s·√(1 + 1/n)`, `m` and `s` over the n seeds. Three
things keep it honest with three seeds:

- `s` is never below the mean spread of the signal, nor below what the noise inside a window alone gives: three seeds
  that agree by luck do not make a narrow band;
- the degrees of freedom count only windows that tell something new. Seeds that part and stay apart say one thing,
  however many windows they fill; seeds that cross from window to window say many;
- a run is out where two windows in a row are out on the same side, or one by twice the band. A single window is what a
  heavy-tailed gradient norm does by itself.

The level is shared by all signals (Bonferroni), so that a run like the others leaves *any* band with a probability of
about `LEVEL`. tests/reference/test_band.py measures this on simulated runs of many kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from scipy.special import stdtrit

from harness.reference.signals import Series, role_of, without_repeated_loss, worth_an_alarm

LEVEL = 0.05
WINDOWS = 20
# Of the degrees of freedom that windows beyond the first seem to add, the share that is believed: how alike the windows
# are is itself estimated from a few runs. Chosen on the simulated runs of the tests.
BELIEVED = 1 / 3
TOLERANCE = 1e-3  # of a signal's size: a smaller difference is another machine's arithmetic
SMALLEST = 1e-9  # for signals that are always 0
FEW = 8  # fewer windows than these do not tell how alike they are: they count as one

Floats = NDArray[np.float64]


@frozen(eq=False, kw_only=True)
class Band:
    """Where a new run's windows should be. Window `k` holds clock values from `starts[k]` up to the next start."""

    clock: NDArray[np.int64]  # what every run of the reference has
    starts: NDArray[np.int64]
    centre: Floats  # [K]
    half_width: Floats  # [K]
    seeds: int
    freedom: float  # degrees of freedom of the spread

    def means(self, series: Series) -> Floats:
        """The run's mean in each window, NaN where it has no row there; infinite where it was not finite."""
        own = series.at(self.clock)
        return window_means(own.clock, np.where(np.isfinite(own.value), own.value, np.inf), self.starts)


def bands(runs: Sequence[Mapping[str, Series]], level: float = LEVEL) -> dict[str, Band]:
    """The band of every signal that all runs have. A loss that only repeats another signal has none.

    Raises:
        ValueError: fewer than two runs: one says nothing of spread.
    """
    if len(runs) < 2:
        raise ValueError(f"a band needs at least two runs, got {len(runs)}")
    shared = {name: [run[name] for run in runs] for name in runs[0] if all(name in run for run in runs)}
    shared = {name: common_rows(series) for name, series in without_repeated_loss(shared).items()}
    shared = {name: series for name, series in shared.items() if len(series[0].clock)}
    fixed = _fixed_points(shared)
    return {
        name: band(series, level / len(shared), fixed[role_of(name)], worth_an_alarm(name))
        for name, series in shared.items()
    }


def band(series: Sequence[Series], level: float, fixed: Sequence[int] = (), smallest: float = 0.0) -> Band:
    """The band of one signal whose runs have the same rows.

    Args:
        series: of each run.
        level: probability that a run like these leaves.
        fixed: clock values at which the seeds cannot differ (the quality of shared initial weights); only the tolerance
            counts there.
        smallest: half-width that the band has in any case.
    """
    clock, n = series[0].clock, len(series)
    values = np.stack([run.value for run in series])  # [n, rows]
    starts = window_starts(clock)
    means = np.stack([window_means(clock, row, starts) for row in values])  # [n, K]
    centre = means.mean(axis=0)
    free = ~np.isin(starts, list(fixed)) | (len(starts) < len(clock))  # a fixed point is a window of one row
    spread, freedom = np.zeros(len(starts)), float(n - 1)
    if free.any():
        variance = np.where(free, means.var(axis=0, ddof=1), 0.0)
        near = _smoothed(variance, free)
        noise = _smoothed(_noise(clock, values, starts), free)
        spread = np.sqrt(np.maximum(np.maximum(near, variance[free].mean()), noise))
        new = independent_windows(means[:, free] - centre[free], near[free])
        believed = 1.0 + BELIEVED * (new - 1.0)
        freedom = (n - 1) * believed
        t = float(stdtrit(freedom, 1.0 - level / (2.0 * new)))
        spread = np.where(free, t * np.sqrt(1.0 + 1.0 / n) * spread, 0.0)
    size = float(np.sqrt(np.mean(centre**2)))
    return Band(
        clock=clock,
        starts=starts,
        centre=centre,
        half_width=np.maximum(spread, max(smallest, TOLERANCE * size, SMALLEST)),
        seeds=n,
        freedom=freedom,
    )


def window_starts(clock: NDArray[np.int64]) -> NDArray[np.int64]:
    """First clock value of each of at most `WINDOWS` windows with equally many rows."""
    return clock[:: max(1, -(-len(clock) // WINDOWS))]


def window_means(clock: NDArray[np.int64], values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Mean of the rows of each window; NaN for a window without rows."""
    where = np.searchsorted(starts, clock, side="right") - 1
    return np.array([values[where == k].mean() if (where == k).any() else np.nan for k in range(len(starts))])


def common_rows(series: Sequence[Series]) -> list[Series]:
    """The rows that all have, as far as all are finite."""
    clock = series[0].clock
    for other in series[1:]:
        clock = np.intersect1d(clock, other.clock)
    cut = [run.at(clock) for run in series]
    good = np.all([np.isfinite(run.value) for run in cut], axis=0)
    return [Series(run.clock[good], run.batch[good], run.value[good]) for run in cut]


def independent_windows(residuals: Floats, variance: Floats) -> float:
    """How many of K windows tell something new: K / (1 + 2·Σ (1 − l/K)·ρ_l²), the effective number for a variance.

    `residuals` `[n, K]` about the mean of the runs; ρ_l is their correlation l windows apart, less its chance size.
    Seeds that stay where they are give 1; fewer than `FEW` windows count as 1.
    """
    n, windows = residuals.shape
    scaled = residuals / np.sqrt(np.where(variance > 0, variance, 1.0))
    total = float(np.mean(scaled**2))
    if windows < FEW or total == 0.0:
        return 1.0
    weight = 1.0
    for lag in range(1, windows):
        correlation = float(np.mean(scaled[:, :-lag] * scaled[:, lag:])) / total
        by_chance = 1.0 / ((windows - lag) * (n - 1))
        weight += 2.0 * (1.0 - lag / windows) * max(correlation**2 - by_chance, 0.0)
    return max(1.0, windows / weight)


def _fixed_points(signals: Mapping[str, Sequence[Series]]) -> dict[str, list[int]]:
    """Role → clock values at which all signals of the role agree in all runs, though they differ elsewhere.

    One signal may agree by chance (accuracies are counts); all of them do so only where the seeds cannot differ.
    """
    fixed: dict[str, list[int]] = {}
    for role in {role_of(name) for name in signals}:
        own = [series for name, series in signals.items() if role_of(name) == role]
        varied = [series for series in own if not all(_agree(series, clock) for clock in series[0].clock)]
        clocks = set.intersection(*(set(series[0].clock.tolist()) for series in varied)) if varied else set()
        fixed[role] = sorted(clock for clock in clocks if all(_agree(series, clock) for series in varied))
    return fixed


def _agree(series: Sequence[Series], clock: int) -> bool:
    values = np.array([run.value[np.searchsorted(run.clock, clock)] for run in series])
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _smoothed(values: Floats, counted: NDArray[np.bool_]) -> Floats:
    """Means over neighbouring windows (an eighth of all on either side), of those that count."""
    reach = max(1, len(values) // 8)
    smooth = np.zeros(len(values))
    for k in range(len(values)):
        near = slice(max(0, k - reach), k + reach + 1)
        if counted[near].any():
            smooth[k] = values[near][counted[near]].mean()
    return smooth


def _noise(clock: NDArray[np.int64], values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Variance of each window's mean that rows which jump about by themselves give, from differences of neighbours."""
    where = np.searchsorted(starts, clock, side="right") - 1
    variance = np.zeros(len(starts))
    for k in range(len(starts)):
        rows = values[:, where == k]
        if rows.shape[1] > 2:
            variance[k] = float(np.mean(np.diff(rows, axis=1) ** 2)) / 2.0 / rows.shape[1]
    return variance
