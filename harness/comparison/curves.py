"""Quality against what it cost: monitor curves on a common axis, and the comparison at equal compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from attrs import frozen

from harness.comparison.results import Result, Results, Row

Axis = Literal["teraflops", "device_seconds"]
STOPWATCH: Axis = "device_seconds"  # another number on every machine and every day
AXES: tuple[Axis, ...] = ("teraflops", STOPWATCH)


@frozen(kw_only=True)
class Curve:
    """The monitor's readings of one run, with what was spent before it (its parents but for its teacher) included."""

    arm: str
    seed: int
    rows: tuple[Row, ...]  # update, teraflops, device_seconds, metrics
    before: dict[str, float]  # axis → spent by parents

    def at(self, axis: Axis, budget: float, metric: str) -> float | None:
        """The metric where `budget` had been spent, linear between readings; None where nothing was measured."""
        points = [(row[axis], row[metric]) for row in self.rows if axis in row and metric in row]
        return interpolate(points, budget)

    def last(self, axis: Axis) -> float:
        """All that was spent when the monitor last read."""
        return max((row[axis] for row in self.rows if axis in row), default=self.before[axis])


def curve_of(results: Results, arm: str, seed: int) -> Curve:
    """A run's monitor curve, moved right by what its parents spent."""
    result = results.arms[arm][seed]
    before = parents_compute(result, results.shared(arm))
    readings = with_gap(result.quality, results.teachers[arm].metric("teacher", "fvd"))
    rows = tuple({**row, **{axis: row[axis] + before[axis] for axis in AXES if axis in row}} for row in readings)
    return Curve(arm=arm, seed=seed, rows=rows, before=before)


def with_gap(rows: Sequence[Row], teacher: float | None) -> list[Row]:
    """Readings with `fvd_gap`, the share that is left of the way to the run's own teacher: 1 at its own reading before
    training, 0 at `teacher`, the Fréchet distance on the teacher's card. The monitor never samples the teacher.

    Without it where one end is missing, or training starts no farther away than the teacher is.
    """
    start = next((row["fvd"] for row in rows if row.get("update") == 0 and "fvd" in row), None)
    if teacher is None or start is None or start <= teacher:
        return list(rows)
    return [{**row, "fvd_gap": (row["fvd"] - teacher) / (start - teacher)} if "fvd" in row else row for row in rows]


def parents_compute(result: Result, shared: Collection[str]) -> dict[str, float]:
    """What was spent before a run on top of the `shared` targets, per axis."""
    parents = [parent for parent in result.manifest.get("parents", []) if parent["target"] not in shared]
    return {axis: sum(float(parent["compute"][axis]) for parent in parents) for axis in AXES}


def own_compute(result: Result) -> dict[str, float]:
    """What a run itself spent, per axis."""
    return {axis: float(result.manifest["compute"][axis]) for axis in AXES}


def common_budget(curves: Iterable[Curve], axis: Axis) -> float:
    """The largest budget that every run reached."""
    return min(curve.last(axis) for curve in curves)


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """Linear interpolation through points; None outside of them (nothing is extrapolated)."""
    points = sorted(points)
    if not points or not points[0][0] <= x <= points[-1][0]:
        return None
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1:
            return y1 if x1 == x0 or x == x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def curve_table(curves: Iterable[Curve], metrics: Iterable[str]) -> str:
    """All curves as one CSV text: arm, seed, update, teraflops, device_seconds, metrics. Costs include the parents'."""
    names = ["update", *AXES, *metrics]
    lines = [",".join(["arm", "seed", *names])]
    for curve in curves:
        for row in curve.rows:
            lines.append(",".join([curve.arm, str(curve.seed), *(_cell(row.get(name)) for name in names)]))
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def by_seed(curves: Iterable[Curve]) -> Mapping[tuple[str, int], Curve]:
    """Curves under (arm, seed)."""
    return {(curve.arm, curve.seed): curve for curve in curves}
