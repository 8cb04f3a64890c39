"""Drift: a metric against the pixel frame, from a comparison alone. The arms' long clips where they have them, else
their short ones, beside what the teacher's frames span.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from attrs import frozen

from harness.config.metrics import METRICS

Comparison = Mapping[str, Any]
BY_FRAME = ("identity", "rigid_error", "ink")
BY_SEGMENT = "fvd"  # of a set of clips, so per segment


@frozen(kw_only=True)
class ArmDrift:
    """One arm over the frames: mean, smallest and largest of its seeds. NaN where nothing was measured."""

    arm: str
    frame: Sequence[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@frozen(kw_only=True)
class TeacherSpan:
    """What the frames of a teacher span. `arm` is the first that it teaches, where arms have different teachers."""

    low: float
    high: float
    arm: str | None = None


@frozen(kw_only=True)
class Drift:
    """One metric over the frames.

    `teachers` has the smallest and largest of each teacher's frames, or the interval of its card for a metric of a
    whole clip; `real` has frames and values.
    """

    metric: str
    label: str
    trained: int  # last pixel frame of the clips that training made
    arms: list[ArmDrift]
    teachers: list[TeacherSpan]
    real: tuple[Sequence[float], Sequence[float]] | None

    @property
    def beyond(self) -> bool:
        """Whether an arm goes on after the end of training's clips."""
        return any(arm.frame[-1] > self.trained for arm in self.arms)


def drifts(comparison: Comparison) -> list[Drift]:
    """Every metric that was measured over the frames of the arms' clips."""
    found = [_by_frame(comparison, metric) for metric in BY_FRAME]
    return [drift for drift in (*found, _by_segment(comparison)) if drift is not None]


def spread_over_seeds(arm: str, frame: Sequence[float], series: Sequence[Sequence[float | None]]) -> ArmDrift:
    """Mean, smallest and largest over seeds, frame by frame; a frame that no seed measured is NaN."""
    measured = [[value for value in values if value is not None] or [math.nan] for values in zip(*series, strict=True)]
    return ArmDrift(
        arm=arm,
        frame=frame,
        mean=[fmean(values) for values in measured],
        low=[min(values) for values in measured],
        high=[max(values) for values in measured],
    )


def trained_frames(comparison: Comparison) -> int:
    """Pixel frames of a clip as training made them."""
    long = comparison.get("long")
    if long is not None:
        return int(long["segment_frames"])
    return max((len(s) for of in comparison["by_frame"].values() for every in of.values() for s in every), default=1)


def _by_frame(comparison: Comparison, metric: str) -> Drift | None:
    short = comparison["by_frame"].get(metric, {})
    long = comparison.get("long", {}).get("by_frame", {})
    arms = []
    for name in _names(comparison):
        if name in long.get(metric, {}):
            arms.append(spread_over_seeds(name, long["frame"], long[metric][name]))
        elif name in short:
            arms.append(spread_over_seeds(name, range(len(short[name][0])), short[name]))
    if not arms:
        return None
    spans = [_span(series) for series in short.get("teacher", [])]
    real = short.get("real", [None])[0]
    return Drift(
        metric=metric,
        label=METRICS[metric].label,
        trained=trained_frames(comparison) - 1,
        arms=arms,
        teachers=_teachers(comparison, spans),
        real=(range(len(real)), [math.nan if v is None else v for v in real]) if real else None,
    )


def _by_segment(comparison: Comparison) -> Drift | None:
    """Drawn in the middle of each segment."""
    long = comparison.get("long")
    if long is None:
        return None
    segments = long["segments"]
    middle = [start + (long["segment_frames"] - 1) / 2 for start in segments["start"]]
    measured = {
        arm: [metrics[BY_SEGMENT] for metrics in seeds.values()]
        for arm, seeds in segments["student"].items()
        if all(BY_SEGMENT in metrics for metrics in seeds.values())
    }
    if not measured:
        return None
    cards = [row["metrics"].get(BY_SEGMENT) for row in comparison["models"] if row["model"] == "teacher"]
    intervals = [(m["low"], m["high"]) if m and m["low"] is not None else None for m in cards]
    real = segments["real"].get(BY_SEGMENT)
    return Drift(
        metric=BY_SEGMENT,
        label=f"{METRICS[BY_SEGMENT].label} by segment",
        trained=int(long["segment_frames"]) - 1,
        arms=[spread_over_seeds(arm, middle, measured[arm]) for arm in _names(comparison) if arm in measured],
        teachers=_teachers(comparison, intervals),
        real=None if real is None else (middle, real),
    )


def _names(comparison: Comparison) -> list[str]:
    """The arms in the order of the declaration: files are sorted by name."""
    return [arm["name"] for arm in comparison["arms"]]


def _teachers(comparison: Comparison, spans: Sequence[tuple[float, float] | None]) -> list[TeacherSpan]:
    """The spans that are known, each with the arm of its teacher if there are several teachers."""
    listed = comparison["budget"].get("teachers", [])
    arms = [teacher["arms"][0] for teacher in listed] if len(listed) == len(spans) else [None] * len(spans)
    return [TeacherSpan(low=span[0], high=span[1], arm=arm) for span, arm in zip(spans, arms) if span is not None]


def _span(series: Sequence[float | None]) -> tuple[float, float] | None:
    values = [value for value in series if value is not None]
    return (min(values), max(values)) if values else None
