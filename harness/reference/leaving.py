"""Where a run leaves the band of the reference: which signal first, and at which update."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import frozen

from harness.reference.band import Band
from harness.reference.signals import Series

FAR = 2.0  # band widths at which one window alone is enough


@frozen(kw_only=True)
class Leaving:
    """A signal that left its band, at the first window from which it was out.

    `windows` of `of` compared windows are out; `value` is the run's mean there, `low` and `high` the band.
    """

    signal: str
    update: int  # of the network that the signal belongs to
    last_update: int  # of that window
    batch: int
    value: float
    low: float
    high: float
    windows: int
    of: int

    @property
    def far(self) -> float:
        """How far out, in half-widths of the band: 1 is its edge."""
        centre = (self.low + self.high) / 2
        return abs(self.value - centre) / ((self.high - self.low) / 2)


@frozen(kw_only=True)
class Comparison:
    """What a run's signals do: those that left (the first one first), those that stayed, those that it lacks."""

    left: tuple[Leaving, ...]
    stayed: tuple[str, ...]
    missing: tuple[str, ...]  # the reference has them, the run does not


def compare_to_bands(run: Mapping[str, Series], bands: Mapping[str, Band]) -> Comparison:
    """Hold every signal of a run against its band, as far as the run has come."""
    left, stayed = [], []
    for name, band in bands.items():
        if name not in run or not np.isin(run[name].clock, band.clock).any():
            continue
        found = leaving(name, run[name], band)
        if found is None:
            stayed.append(name)
        else:
            left.append(found)
    compared = {*stayed, *(found.signal for found in left)}
    return Comparison(
        left=tuple(sorted(left, key=lambda found: (found.batch, -found.far))),
        stayed=tuple(stayed),
        missing=tuple(name for name in bands if name not in compared),
    )


def leaving(name: str, series: Series, band: Band) -> Leaving | None:
    """The first window from which a signal is out: with its neighbour on the same side, or far out by itself."""
    means = band.means(series)
    seen = np.flatnonzero(~np.isnan(means))
    far = (means[seen] - band.centre[seen]) / band.half_width[seen]
    out = np.abs(far) > 1.0
    side = np.where(out, np.sign(far), 0.0)
    together = np.zeros(len(far), dtype=bool)
    together[:-1] = out[:-1] & (side[:-1] == side[1:])
    starts = np.flatnonzero(together | (np.abs(far) > FAR))
    if not len(starts):
        return None
    window = int(seen[starts[0]])
    own = series.at(band.clock)
    rows = own.at(own.clock[np.searchsorted(band.starts, own.clock, side="right") - 1 == window])
    wrong = np.flatnonzero(~np.isfinite(rows.value))
    first = int(wrong[0]) if len(wrong) else 0
    return Leaving(
        signal=name,
        update=int(rows.clock[first]),
        last_update=int(rows.clock[-1]),
        batch=int(rows.batch[first]),
        value=float(rows.value[first]) if len(wrong) else float(means[window]),
        low=float(band.centre[window] - band.half_width[window]),
        high=float(band.centre[window] + band.half_width[window]),
        windows=int(out.sum()),
        of=len(seen),
    )
