"""Quality along a long clip: its segments are as long as training's clips, and each is measured as such a clip is.

A segment's reference are the real test clips at the same place, where these can be continued: an object that moves on
is elsewhere later, and must not be told from real ones by that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from harness.errors import HarnessError
from harness.evaluation.frechet import frechet_unbiased
from harness.evaluation.identity import identity_by_frame, opening
from harness.evaluation.intervals import Estimate, bootstrap_mean, jackknife
from harness.evaluation.panel import SMALLEST_SET, ClipSet, by_frame, per_clip

Span = tuple[int, int]  # pixel frames of a clip: first, last + 1

OF_SEGMENTS = ("caption_accuracy", "motion_accuracy", "rigid_error", "ink", "saturation")  # means over clips
OF_LONG_SETS = ("long_fvd", "fvd_drift")  # of the last segment, and from the first to it
AGAINST_REAL = ("ink", "saturation")  # ratios


def pixel_frames(latent_frames: int, temporal: int) -> int:
    """Pixel frames of a clip: its first latent frame is one, each later one is `temporal`."""
    return 1 + temporal * (latent_frames - 1)


def segment_spans(frames: int, trained: int, temporal: int) -> list[Span]:
    """The segments of a clip of `frames` latent frames: one begins every `trained` of them, and is as long as a clip of
    so many.

    Raises HarnessError when the clip is shorter than one.
    """
    length, total = pixel_frames(trained, temporal), pixel_frames(frames, temporal)
    if frames < trained:
        raise HarnessError(
            f"run.evaluate_frames: {frames} latent frames are less than the {trained} of a training clip "
            "(run.frames); give more, or null for no long evaluation"
        )
    return [(start, start + length) for start in range(0, total - length + 1, temporal * trained)]


def cut(chunks: Iterable[Tensor], spans: Sequence[Span]) -> Iterator[Tensor]:
    """Give each span `[B, 3, F, H, W]` of a video that comes in chunks, as soon as its last frame is there.

    Spans in order of their first and of their last frame; they may overlap. No frame is held that no later span needs.
    """
    waiting = list(spans)
    held: Tensor | None = None
    first = 0  # frame of the video at which `held` begins
    for chunk in chunks:
        held = chunk if held is None else torch.cat([held, chunk], dim=2)
        while waiting and waiting[0][1] <= first + held.shape[2]:
            start, end = waiting.pop(0)
            yield held[:, :, start - first : end - first]
        keep = waiting[0][0] if waiting else first + held.shape[2]
        dropped = min(max(keep - first, 0), held.shape[2])
        held, first = held[:, :, dropped:], first + dropped


@frozen(kw_only=True, eq=False)
class Segmented:
    """The same clips in each of their segments, and the reference of each."""

    spans: list[Span]
    clips: list[ClipSet]
    references: list[ClipSet]

    def identity(self, segment: int) -> np.ndarray | None:
        """Cosine of every frame's handwriting in a segment to that of the clip's first frames, `[N, P]`."""
        first, here = self.clips[0].measured.digits, self.clips[segment].measured.digits
        if first is None or here is None:
            return None
        return identity_by_frame(here.handwriting, opening(first.handwriting))

    def per_clip(self, segment: int) -> dict[str, np.ndarray]:
        """One number per clip `[N]` for every metric of a segment that is a mean over clips; ratios against real."""
        measured, real = per_clip(self.clips[segment]), per_clip(self.references[segment])
        values = {name: measured[name] for name in OF_SEGMENTS if name in measured}
        for name in AGAINST_REAL:
            values[name] = values[name] / max(float(real[name].mean()), 1e-9)
        identity = self.identity(segment)
        return values if identity is None else values | {"identity": identity.mean(1)}

    def fvd(self, segment: int, index: np.ndarray) -> float | None:
        """Fréchet distance of some clips' segment to real ones; None for too few clips."""
        x, y = self.clips[segment].measured.features[index], self.references[segment].measured.features
        return frechet_unbiased(x, y) if min(len(x), len(y)) >= SMALLEST_SET else None

    def values(self, segment: int) -> dict[str, float]:
        """Every metric of a segment, without intervals."""
        distance = self.fvd(segment, np.arange(len(self.clips[segment])))
        means = {name: float(value.mean()) for name, value in self.per_clip(segment).items()}
        return means if distance is None else {"fvd": distance, **means}

    def summary(self) -> dict[str, float]:
        """The metrics of `estimates` without intervals: what a training monitor logs."""
        last = len(self.spans) - 1
        values = {f"long_{name}": value for name, value in self.values(last).items() if name != "rigid_error"}
        return self._distances(np.arange(len(self.clips[last]))) | values

    def estimates(self) -> dict[str, Estimate]:
        """The card's metrics of the last segment, and the drift from the first to it, with intervals over clips."""
        last = len(self.spans) - 1
        named = {name: value for name, value in self.per_clip(last).items() if name != "rigid_error"}
        means = {f"long_{name}": bootstrap_mean(value) for name, value in named.items()}
        return jackknife(self._distances, len(self.clips[last])) | means

    def _distances(self, index: np.ndarray) -> dict[str, float]:
        first, last = self.fvd(0, index), self.fvd(len(self.spans) - 1, index)
        return {} if first is None or last is None else {"long_fvd": last, "fvd_drift": last - first}

    def by_frame(self) -> dict[str, list]:
        """Quality by pixel frame; frames between two segments are left out."""
        curves: dict[str, list] = {"frame": []}
        for segment, (start, end) in enumerate(self.spans):
            curves["frame"] += range(start, end)
            found: dict[str, Any] = by_frame(self.clips[segment], self.references[segment])
            identity = self.identity(segment)
            if identity is not None:
                found["identity"] = identity.mean(0).round(6).tolist()
            for name, curve in found.items():
                curves.setdefault(name, []).extend(curve)
        return curves
