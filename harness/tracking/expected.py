"""What must be at W&B after an upload, and what of it is not. Pure: no wandb, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen

TOLERANCE = 1e-9  # relative, of numbers that went through JSON


@frozen(kw_only=True)
class Content:
    """Of a run: number of steps in its history, scalars of its summary, media files by name with their bytes."""

    steps: int = 0
    summary: dict[str, Any] = Factory(dict)
    files: dict[str, int] = Factory(dict)


def summary_of(logged: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The summary that a history ends in: the last value of every key; media and what is not finite are left out."""
    last: dict[str, Any] = {}
    for step in sorted(logged):
        last |= logged[step]
    return {
        name: value
        for name, value in last.items()
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
    }


def missing(expected: Content, found: Content) -> list[str]:
    """In words, what was sent and is not there; empty if all of it is."""
    problems = []
    if found.steps < expected.steps:
        problems.append(f"history: {found.steps} of {expected.steps} steps")
    wrong = [name for name, value in expected.summary.items() if not _same(value, found.summary.get(name))]
    if wrong:
        problems.append(f"summary: {len(wrong)} of {len(expected.summary)} values ({', '.join(sorted(wrong)[:3])})")
    lost = [name for name, size in expected.files.items() if found.files.get(name) != size]
    if lost:
        problems.append(f"files: {len(lost)} of {len(expected.files)} ({', '.join(sorted(lost)[:3])})")
    return problems


def _same(value: Any, found: Any) -> bool:
    if isinstance(value, str) or not isinstance(found, int | float):
        return value == found
    return math.isclose(value, found, rel_tol=TOLERANCE, abs_tol=1e-300)
