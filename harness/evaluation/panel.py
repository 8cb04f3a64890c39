"""The panel: every metric of a set of clips against real clips. Several, because each one is blind to something."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from attrs import frozen

from harness.data.digits import ANY_DIRECTION
from harness.evaluation.captions import (
    CAPTIONED,
    color_right,
    digit_right,
    direction_right,
    direction_shown,
    speed_right,
)
from harness.evaluation.conditional import conditional_energy, kernel_energy
from harness.evaluation.diversity import diversity, mode_coverage
from harness.evaluation.evaluators import Measurements
from harness.evaluation.frechet import frechet_unbiased
from harness.evaluation.identity import identity_by_frame
from harness.evaluation.intervals import Estimate, bootstrap_mean, jackknife
from harness.evaluation.manifold import NEIGHBORS, precision_recall

GROUPINGS = tuple(CAPTIONED)
RATIOS = ("ink", "saturation", "motion_energy", "late_motion")  # to real clips
SHARES = ("precision", "recall", "mode_coverage")  # metrics of the whole set that lie in 0…1
OF_SETS = ("fvd", "conditional_distance", "precision", "recall", "diversity", "mode_coverage")
SMALLEST_SET = 2 * (NEIGHBORS + 2)  # clips below which distances between sets are not computed


@frozen(slots=False, kw_only=True, eq=False)
class ClipSet:
    """Measured clips with what they were to show.

    `prompts [N]` numbers the captions (equal number, same caption). `attributes` are empty dicts where the source has
    none; `text [N, D]` are pooled text embeddings, needed only then.
    """

    measured: Measurements
    prompts: np.ndarray
    attributes: list[dict]
    text: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def has_digits(self) -> bool:
        """Whether the captions have attributes that can be checked."""
        return self.measured.digits is not None

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """Every clip's group index in each of the groupings."""
        return {name: _codes(name, [a[name] for a in self.attributes]) for name in GROUPINGS}

    def with_measured(self, measured: Measurements) -> ClipSet:
        """The same clips as they are measured elsewhere, in another segment for example."""
        return ClipSet(measured=measured, prompts=self.prompts, attributes=self.attributes, text=self.text)

    def select(self, index: np.ndarray) -> ClipSet:
        """The clips at `index`."""
        return ClipSet(
            measured=self.measured.select(index),
            prompts=self.prompts[index],
            attributes=[self.attributes[i] for i in index],
            text=None if self.text is None else self.text[index],
        )


def _codes(name: str, values: list) -> np.ndarray:
    """Indices into the attribute's known values: the same in every set."""
    return np.array([CAPTIONED[name].index(value) for value in values], dtype=int)


def per_clip(clips: ClipSet) -> dict[str, np.ndarray]:
    """One number per clip `[N]` for every metric that is a mean over clips. `RATIOS` are absolute here."""
    m = clips.measured
    values = {
        "ink": m.brightness.mean(1),
        "saturation": m.saturation,
        "motion_energy": m.motion_energy,
        "late_motion": m.late_motion,
    }
    if m.image is not None:
        values |= {"first_frame_psnr": m.image.psnr, "first_frame_ssim": m.image.ssim}
        values |= {} if m.image.identity is None else {"image_identity": m.image.identity[:, 1:].mean(1)}
    if m.digits is None:
        return values
    wanted = {name: [a[name] for a in clips.attributes] for name in GROUPINGS}
    digit = digit_right(m.digits.probabilities, wanted["digit"])
    color = color_right(m.digits.color, wanted["color"])
    direction = direction_right(m.digits.displacements, wanted["direction"])
    motion = direction & speed_right(m.digits.displacements, wanted["speed"])
    right = {
        "caption_accuracy": digit & color & motion,
        "digit_accuracy": digit,
        "color_accuracy": color,
        "motion_accuracy": motion,
    }
    values |= {name: value.astype(float) for name, value in right.items()}
    return values | {
        "identity": identity_by_frame(m.digits.handwriting).mean(1),
        "rigid_error": m.digits.rigid_error.mean(1),
    }


def set_distances(clips: ClipSet, reference: ClipSet) -> dict[str, float]:
    """Metrics of the set as a whole; empty for fewer than `SMALLEST_SET` clips on either side."""
    if min(len(clips), len(reference)) < SMALLEST_SET:
        return {}
    x, y = clips.measured.features, reference.measured.features
    precision, recall = precision_recall(x, y)
    values = {
        "fvd": frechet_unbiased(x, y),
        "precision": precision,
        "recall": recall,
        "diversity": _diversity(clips, reference),
    }
    if clips.has_digits:
        values["conditional_distance"] = conditional_energy(x, clips.groups, y, reference.groups)
        made, real = _open_directions(clips), _open_directions(reference)
        if min(len(made), len(real)) >= SMALLEST_SET:
            values["mode_coverage"] = mode_coverage(made, real)
    elif clips.text is not None and reference.text is not None:
        values["conditional_distance"] = kernel_energy(x, clips.text, y, reference.text)
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _open_directions(clips: ClipSet) -> np.ndarray:
    """The directions shown for captions that leave the direction open."""
    digits = clips.measured.digits
    if digits is None:
        return np.array([])
    is_open = np.array([a["direction"] == ANY_DIRECTION for a in clips.attributes])
    return direction_shown(digits.displacements[is_open])


def _diversity(clips: ClipSet, reference: ClipSet) -> float:
    """Of handwriting within a digit; of all features, against all real clips, where there are no digits."""
    made, seen = clips.measured.digits, reference.measured.digits
    if made is not None and seen is not None:
        x, real = made.handwriting.mean(1), seen.handwriting.mean(1)
        return diversity(x, clips.prompts, real, reference.groups["digit"])
    return diversity(
        clips.measured.features, clips.prompts, reference.measured.features, np.zeros(len(reference), dtype=int)
    )


def measure_values(clips: ClipSet, reference: ClipSet) -> dict[str, float]:
    """Every metric without intervals: what a training monitor logs. Ratios are to the reference."""
    real = per_clip(reference)
    values = {name: float(value.mean()) for name, value in per_clip(clips).items()}
    for name in RATIOS:
        values[name] /= max(float(real[name].mean()), 1e-9)
    return values | set_distances(clips, reference)


def measure_card(clips: ClipSet, reference: ClipSet) -> dict[str, Estimate]:
    """Every metric with its 95 % interval over clips."""
    real = per_clip(reference)
    card = {name: bootstrap_mean(value) for name, value in per_clip(clips).items()}
    for name in RATIOS:
        card[name] = card[name].scaled(1 / max(float(real[name].mean()), 1e-9))
    card |= jackknife(lambda index: set_distances(clips.select(index), reference), len(clips))
    return {name: e.clipped(0.0, 1.0) if name in SHARES else e for name, e in card.items()}


def by_frame(clips: ClipSet, reference: ClipSet) -> dict[str, list[float]]:
    """Quality per frame index: brightness against real, identity and rigid error where there are digits, and the given
    image's identity where there is one.
    """
    m, real = clips.measured, reference.measured
    curves = {"ink": m.brightness.mean(0) / np.maximum(real.brightness.mean(0), 1e-9)}
    if m.digits is not None:
        curves |= {
            "identity": identity_by_frame(m.digits.handwriting).mean(0),
            "rigid_error": m.digits.rigid_error.mean(0),
        }
    if m.image is not None and m.image.identity is not None:
        curves["image_identity"] = m.image.identity.mean(0)
    return {name: [round(float(v), 6) for v in curve] for name, curve in curves.items()}
