"""Two runs row by row: from which batch on they differ, in what, by how much, and whether rounding explains it.

The same computation on the same machine gives the same bits. On another machine the first rows differ by rounding; the
difference then grows, as training amplifies it, but from row to row by less than `LEAP`. Another setting or line of
code shows at once in full size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from harness.reference.signals import Series, worth_an_alarm

VISIBLE = 1e-2  # of a signal's size: a difference that is no longer rounding
LEAP = 100.0  # times the largest difference of all rows before, in any signal


@frozen(kw_only=True)
class Difference:
    """A signal at the first row of interest: both values and the difference relative to the signal's size."""

    signal: str
    update: int
    batch: int
    first: float
    second: float
    relative: float


@frozen(kw_only=True)
class Pair:
    """Two runs compared over the rows that both have.

    begins    the first row at which any bit differs; None for identical runs
    visible   the first row at which a signal differs visibly: by more than `VISIBLE` of its size
    before    the largest relative difference in the batches before `visible`
    largest   of each signal that differs, the row where it differs most; largest first
    rows      rows compared
    """

    begins: Difference | None
    visible: Difference | None
    before: float
    largest: tuple[Difference, ...]
    rows: int

    @property
    def identical(self) -> bool:
        """Whether every compared bit is the same."""
        return self.begins is None

    @property
    def leaps(self) -> bool:
        """Whether the runs part at once, so that rounding does not explain it."""
        return self.visible is not None and self.visible.relative > LEAP * self.before


def compare_runs(first: Mapping[str, Series], second: Mapping[str, Series]) -> Pair:
    """Compare the signals that two runs share, over the clock values that both have."""
    differences: list[Difference] = []
    rows = 0
    for name in (name for name in first if name in second):
        clock = np.intersect1d(first[name].clock, second[name].clock)
        a, b = first[name].at(clock), second[name].at(clock)
        rows += len(clock)
        relative = relative_difference(a.value, b.value)
        differences += [
            Difference(
                signal=name,
                update=int(clock[i]),
                batch=int(a.batch[i]),
                first=float(a.value[i]),
                second=float(b.value[i]),
                relative=float(relative[i]),
            )
            for i in np.flatnonzero(relative > 0)
        ]
    in_order = sorted(differences, key=lambda d: (d.batch, -d.relative))
    visible = next(filter(is_visible, in_order), None)
    largest: dict[str, Difference] = {}
    for d in sorted(differences, key=lambda d: -d.relative):
        largest.setdefault(d.signal, d)
    return Pair(
        begins=in_order[0] if in_order else None,
        visible=visible,
        before=max((d.relative for d in differences if visible is not None and d.batch < visible.batch), default=0.0),
        largest=tuple(largest.values()),
        rows=rows,
    )


def is_visible(difference: Difference) -> bool:
    """Whether a difference is more than rounding, and more than a clip or two judged otherwise."""
    absolute = abs(difference.first - difference.second)
    return difference.relative > VISIBLE and not absolute <= worth_an_alarm(difference.signal)


def relative_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """|a − b| over the size of the signal: its root mean square in `a`. Infinite where only one is a number."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a)
    size = float(np.sqrt(np.mean(a[finite] ** 2))) if finite.any() else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(a - b) / (size or 1.0)
    return np.where(same, 0.0, np.where(np.isfinite(relative), relative, np.inf))
