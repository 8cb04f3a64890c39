"""The table of a long evaluation: quality in each segment of the clips, from a comparison alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from attrs import frozen

from harness.config.metrics import METRICS


@frozen(kw_only=True)
class Cell:
    """A metric in one segment: its mean, and every seed where there are several."""

    value: float
    seeds: tuple[float, ...] = ()


@frozen(kw_only=True)
class SegmentRow:
    """One model over the segments. `student` is false for what is there to compare with."""

    label: str
    student: bool
    cells: list[Cell]


@frozen(kw_only=True)
class SegmentGroup:
    """The rows of one metric."""

    label: str
    direction: str
    rows: list[SegmentRow]


def segment_groups(comparison: Mapping[str, Any]) -> list[SegmentGroup]:
    """Every metric that any student has in all segments, in the order of `METRICS`; empty without a long evaluation."""
    long = comparison.get("long")
    if long is None:
        return []
    segments = long["segments"]
    measured = {metric for seeds in segments["student"].values() for of in seeds.values() for metric in of}
    return [
        SegmentGroup(label=METRICS[metric].label, direction=METRICS[metric].direction, rows=_rows(comparison, metric))
        for metric in METRICS
        if metric in measured
    ]


def spans(comparison: Mapping[str, Any]) -> list[tuple[int, int]]:
    """First and last pixel frame of each segment."""
    long = comparison["long"]
    return [(start, start + long["segment_frames"] - 1) for start in long["segments"]["start"]]


def _rows(comparison: Mapping[str, Any], metric: str) -> list[SegmentRow]:
    long = comparison["long"]
    segments = long["segments"]
    rows = []
    if metric in segments["real"]:
        cells = [Cell(value=value) for value in segments["real"][metric]]
        rows.append(SegmentRow(label="Real clips", student=False, cells=cells))
    labels = {arm["name"]: arm["label"] for arm in comparison["arms"]}
    for arm in (name for name in labels if name in segments["student"]):
        rows += _row(labels[arm], True, segments["student"][arm], metric)
    for arm in (name for name in labels if name in segments["init"]):
        label = "What all start from" if long["common_init"] else f"{labels[arm]}: its init"
        rows += _row(label, False, segments["init"][arm], metric)
        if long["common_init"]:
            break
    return rows


def _row(
    label: str, student: bool, seeds: Mapping[str, Mapping[str, Sequence[float]]], metric: str
) -> list[SegmentRow]:
    if not all(metric in of for of in seeds.values()):
        return []
    values = list(zip(*(of[metric] for of in seeds.values())))
    cells = [Cell(value=fmean(of), seeds=of if len(set(of)) > 1 else ()) for of in values]
    return [SegmentRow(label=label, student=student, cells=cells)]
