"""A run against the teacher that it learns from: how much of its motion is left, and of the way to it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.evaluation.intervals import Estimate
from harness.io import read_json

Metrics = Mapping[str, Mapping[str, float]]  # of one model of a card: name → value, low, high
MEASURED = "late_motion"  # on any clips: a card of a teacher without it is not whole


def teacher_card(run: RunConfig, results: Path) -> Path | None:
    """The card of the run's teacher in `results`; None where there is none, as for weights from elsewhere."""
    folder = PurePosixPath(run.teacher)
    if not folder.is_relative_to("checkpoints"):
        return None
    path = results / folder.relative_to("checkpoints") / "cards.json"
    return path if path.is_file() else None


def teacher_metrics(run: RunConfig, results: Path, protocol: Mapping[str, Any] | None = None) -> Metrics | None:
    """The metrics of the run's teacher by its own card, or None.

    With `protocol`, a card that was made under another one is left out, and that is said: its numbers do not compare.
    Only one of the two may have been given images. Raises HarnessError when the card is damaged.
    """
    path = teacher_card(run, results)
    if path is None:
        return None
    card = _Card(path, results)
    if "teacher" not in card.section("models"):  # the checkpoint of a student
        return None
    if protocol is not None and (others := _differing(card.section("protocol"), protocol)):
        print(
            f"warning: {path}: made under another protocol (its {', '.join(others)} differ): static_collapse and "
            f"fvd_gap are left out. Run `python -m harness evaluate {path.parent.relative_to(results)}`, then retry",
            file=sys.stderr,
        )
        return None
    return card.metrics("models", "teacher", "metrics")


def teacher_motion(run: RunConfig, results: Path) -> float | None:
    """`late_motion` on the card of the run's teacher, by which its monitor measures `static_collapse`; None where there
    is none, and for a run that learns from clips. Raises HarnessError when the card is damaged.
    """
    teacher = None if run.method == "sft" else teacher_metrics(run, results)
    return None if teacher is None else teacher[MEASURED]["value"]


class _Card:
    """The card in a file. Everything here raises HarnessError where the file is damaged, with how to make it anew."""

    def __init__(self, path: Path, results: Path) -> None:
        self.path, self.target = path, path.parent.relative_to(results).as_posix()
        try:
            self.content = read_json(path)
        except HarnessError as error:
            raise HarnessError(f"{error}. {self._remedy}") from error

    def section(self, *keys: str) -> Mapping[str, Any]:
        """The object under some keys, each in that of the last."""
        found = self.content
        for i, key in enumerate(keys):
            if not isinstance(found, dict) or key not in found:
                raise self._damaged(".".join(keys[: i + 1]), "is missing")
            found = found[key]
        if not isinstance(found, dict):
            raise self._damaged(".".join(keys), f"is {found!r:.40}, expected an object")
        return found

    def metrics(self, *keys: str) -> Metrics:
        """The metrics under some keys, each with its three numbers."""
        for name in dict.fromkeys((MEASURED, *self.section(*keys))):
            estimate = self.section(*keys, name)
            for part in ("value", "low", "high"):
                if part not in estimate:
                    raise self._damaged(".".join((*keys, name, part)), "is missing")
                if not _is_number(estimate[part]):
                    raise self._damaged(".".join((*keys, name, part)), f"is {estimate[part]!r:.40}, expected a number")
        return self.section(*keys)

    @property
    def _remedy(self) -> str:
        return f"Run `python -m harness evaluate {self.target}`, or take the committed file: `git checkout {self.path}`"

    def _damaged(self, place: str, what: str) -> HarnessError:
        return HarnessError(f"{self.path}: {place} {what}. {self._remedy}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Entries in which two protocols differ. That of the images counts only where both were given some."""
    keys = (key for key in {**a, **b} if key != "image" or (key in a and key in b))
    return [key for key in keys if a.get(key) != b.get(key)]


def static_collapse(metrics: Metrics, teacher: Metrics) -> Estimate | None:
    """Motion after the first frame as a share of the teacher's: 0 where all clips stand still. None where it is not
    known, or the teacher's clips stand still themselves.

    The interval is that of the model; the teacher is taken as it was measured.
    """
    if "late_motion" not in metrics or "late_motion" not in teacher or teacher["late_motion"]["value"] <= 0:
        return None
    return Estimate(**metrics["late_motion"]).scaled(1 / teacher["late_motion"]["value"])


def fvd_gap(student: Metrics, init: Metrics, teacher: Metrics) -> Estimate | None:
    """What is left of the way from the student's init to its teacher, by the Fréchet distance: 1 at the init, 0 at the
    teacher's own distance, less beyond it. None where a part is missing or the init is no worse than the teacher.

    Runs with different teachers compare by it: each distance starts where its own init is and ends at its own teacher.
    The interval is that of the student; both ends are taken as they were measured.
    """
    if any("fvd" not in metrics for metrics in (student, init, teacher)):
        return None
    end, way = teacher["fvd"]["value"], init["fvd"]["value"] - teacher["fvd"]["value"]
    if way <= 0:
        return None
    value, low, high = ((student["fvd"][name] - end) / way for name in ("value", "low", "high"))
    return Estimate(value, low, high)
