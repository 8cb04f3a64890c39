"""Small-sample statistics of paired runs, as pure functions of numbers.

With three seeds a percentile bootstrap covers far less than it claims (resampled means cannot leave the three values).
So intervals are Student's t. As Agarwal et al. (arXiv 2108.13264) ask, every seed is shown and never a best run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

from attrs import frozen
from scipy.special import stdtr, stdtrit

Outcome = Literal["supported", "not supported", "undecided"]


@frozen
class Interval:
    """A mean with its confidence interval over `n` values; without ends when a single value says nothing of spread."""

    value: float
    low: float | None
    high: float | None
    n: int


@frozen
class Verdict:
    """What a hypothesis' data say, and why, in one sentence."""

    outcome: Outcome
    reason: str


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and two-sided Student t interval of independent values.

    Raises:
        ValueError: if there are no values, or `confidence` is not inside (0, 1).
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * standard_error(values)
    return Interval(mean, mean - half, mean + half, n)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean, with the n − 1 variance; needs two values or more."""
    n, mean = len(values), math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def paired_differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """`a − b` seed by seed, in the order of the seeds.

    Raises:
        ValueError: if the two do not have the same seeds: a pair with one side missing is not a pair.
    """
    if set(a) != set(b):
        raise ValueError(f"seeds differ: {sorted(a)} and {sorted(b)}")
    return [a[seed] - b[seed] for seed in sorted(a)]


def t_test_p(values: Sequence[float]) -> float | None:
    """Two-sided p of Student's one-sample t test against 0; None with fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = math.fsum(values) / len(values), standard_error(values)
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stdtr(len(values) - 1, -abs(mean / error)))


def sign_flip_p(values: Sequence[float]) -> float | None:
    """Exact two-sided p of the sign-flip test on the mean: no assumption on the shape, all 2ⁿ flips counted."""
    if not values:
        return None
    observed = abs(math.fsum(values))
    slack = 1e-12 * math.fsum(abs(v) for v in values)
    flips = [abs(math.fsum(s * v for s, v in zip(signs, values))) for signs in product((1, -1), repeat=len(values))]
    return sum(flip >= observed - slack for flip in flips) / len(flips)


def smallest_sign_flip_p(n: int) -> float:
    """The smallest two-sided p that `n` pairs allow, 2 / 2ⁿ: six pairs before p < .05 is possible."""
    return min(1.0, 2.0 / 2**n)


def holm(p_values: Sequence[float | None], others: int = 0) -> list[float | None]:
    """Holm's step-down adjustment (1979) against any false claim among the tests. None stays None, uncounted.

    `others` more tests of the family may have any p value: they count but do not rank, which adjusts by no less than if
    they did.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) + others - rank) * p))
        adjusted[i] = running
    return adjusted


def intervals_apart(a: Interval, b: Interval) -> bool | None:
    """True when the two intervals do not touch; None when either has no interval."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    return a.high < b.low or b.high < a.low


def verdict(
    gain: Interval, p_adjusted: float | None, smallest_effect: float, confidence: float = 0.95, family: int = 1
) -> Verdict:
    """Judge "better by an amount that matters" from the interval of the gain (positive is better).

    Supported: the interval lies above 0, still does after Holm, and the mean is at least `smallest_effect`.
    Not supported: the interval lies below `smallest_effect`: the data rule the effect out.
    Undecided: anything else, since neither has been shown.

    Args:
        gain: mean gain over seeds, in the metric's unit.
        p_adjusted: Holm-adjusted p of the gain's t test; None with one seed.
        smallest_effect: the smallest gain that would matter, in the metric's unit, ≥ 0.
        confidence: of the interval; 1 − confidence is the level of the test.
        family: how many tests were adjusted for together.
    """
    percent = f"{100 * confidence:g} %"
    if gain.low is None or gain.high is None or p_adjusted is None:
        return Verdict("undecided", "one seed gives no interval; run at least two more")
    span = f"the {percent} interval [{gain.low:.3g}, {gain.high:.3g}]"
    if gain.high < 0.0:
        return Verdict("not supported", f"{span} lies wholly on the other side: the effect is reversed")
    if gain.high < smallest_effect:
        return Verdict("not supported", f"{span} excludes a gain of {smallest_effect:g}, the smallest that matters")
    if gain.low <= 0.0:
        return Verdict(
            "undecided", f"{span} contains both no gain and one that matters; {more_seeds(gain, confidence)}"
        )
    if gain.value < smallest_effect:
        return Verdict(
            "undecided", f"{span} is above 0, but the mean gain is below {smallest_effect:g}, the smallest that matters"
        )
    if p_adjusted >= 1.0 - confidence:
        return Verdict(
            "undecided", f"{span} is above 0 alone, but not after Holm over {family} tests (p = {p_adjusted:.2g})"
        )
    beyond = "wholly above" if gain.low >= smallest_effect else "above 0 and its mean reaches"
    return Verdict("supported", f"{span} is {beyond} {smallest_effect:g}, the smallest gain that matters")


def more_seeds(gain: Interval, confidence: float = 0.95, most: int = 1000) -> str:
    """In words: about how many seeds would separate this gain from 0, if mean and spread stayed as they are."""
    if gain.low is None or gain.n < 2:
        return "run at least two more seeds"
    half = gain.value - gain.low
    if gain.value == 0.0:
        return "more seeds are needed"
    spread = half * math.sqrt(gain.n) / float(stdtrit(gain.n - 1, 0.5 + confidence / 2))
    for n in range(gain.n + 1, most + 1):
        if float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread / math.sqrt(n) < abs(gain.value):
            return f"about {n} seeds would tell"
    return f"even {most} seeds would hardly tell"
