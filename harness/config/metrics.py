"""The metrics of the evaluation card: their names, directions, units and the smallest differences worth a claim."""

from __future__ import annotations

from typing import Literal

from attrs import frozen


@frozen
class Metric:
    """One column of the card. `one` means that 1 is right (a ratio to real clips) and both sides are wrong."""

    label: str
    direction: Literal["lower", "higher", "one"]
    unit: str = ""
    smallest_effect: float | None = None  # a difference below this is not worth a claim, whatever its interval


METRICS: dict[str, Metric] = {
    "fvd": Metric("Fréchet video distance", "lower", "", 2.0),
    "conditional_distance": Metric("Conditional two-sample distance", "lower"),
    "recall": Metric("Recall", "higher", "fraction", 0.02),
    "precision": Metric("Precision", "higher", "fraction", 0.02),
    "caption_accuracy": Metric("Caption all right", "higher", "fraction", 0.02),
    "digit_accuracy": Metric("Digit right", "higher", "fraction", 0.02),
    "color_accuracy": Metric("Color right", "higher", "fraction", 0.02),
    "motion_accuracy": Metric("Direction and speed right", "higher", "fraction", 0.02),
    "identity": Metric("Identity kept over frames", "higher", "fraction", 0.02),
    "rigid_error": Metric("Rigid-motion error", "lower", "", 0.01),
    "diversity": Metric("Diversity", "higher"),
    "mode_coverage": Metric("Directions shown where the caption leaves them open", "higher", "fraction", 0.02),
    "motion_energy": Metric("Motion energy against real", "one", "ratio", 0.05),
    "saturation": Metric("Saturation against real", "one", "ratio", 0.05),
    "ink": Metric("Mean brightness against real", "one", "ratio", 0.05),
    "first_frame_psnr": Metric("First frame against the given image", "higher", "dB", 0.5),
    "first_frame_ssim": Metric("First frame's structure as in the given image", "higher", "", 0.02),
    "image_identity": Metric("Given image's identity kept", "higher", "fraction", 0.02),
    "late_motion": Metric("Motion after the first frame against real", "one", "ratio", 0.05),
    "static_collapse": Metric("Motion after the first frame against the teacher", "one", "ratio", 0.05),
    "fvd_gap": Metric("Share of the way to the teacher that is left", "lower", "fraction", 0.05),
    "long_fvd": Metric("Fréchet video distance at the end of a long clip", "lower", "", 2.0),
    "long_caption_accuracy": Metric("Caption all right at the end of a long clip", "higher", "fraction", 0.02),
    "long_motion_accuracy": Metric("Direction and speed right at the end of a long clip", "higher", "fraction", 0.02),
    "long_identity": Metric("First frames' identity kept to the end of a long clip", "higher", "fraction", 0.02),
    "long_ink": Metric("Mean brightness against real at the end of a long clip", "one", "ratio", 0.05),
    "long_saturation": Metric("Saturation against real at the end of a long clip", "one", "ratio", 0.05),
    "fvd_drift": Metric("Fréchet video distance gained over a long clip", "lower", "", 2.0),
    "switch_delay": Metric("Frames until a new prompt is obeyed", "lower", "frames", 2.0),
    "switch_obeyed": Metric("New prompt obeyed in the end", "higher", "fraction", 0.02),
    "switch_identity": Metric("Identity kept over a prompt switch", "higher", "fraction", 0.02),
    "long_cache": Metric("Keys and values of a long clip", "lower", "MiB"),
}

OF_IMAGES = ("first_frame_psnr", "first_frame_ssim", "image_identity")  # only of clips that were given an image
AGAINST_TEACHER = ("static_collapse", "fvd_gap")  # only where the own teacher has a card
OF_LONG_CLIPS = (  # only of causal students with a long evaluation, and of what they start from
    "long_fvd", "long_caption_accuracy", "long_motion_accuracy", "long_identity", "long_ink", "long_saturation",
    "fvd_drift", "switch_delay", "switch_obeyed", "switch_identity", "long_cache",
)  # fmt: skip
STATIC_COLLAPSE_ALARM = 0.5  # below it, training says that the clips stand still


def better(name: str, a: float, b: float) -> bool:
    """Whether value `a` of the metric is strictly better than `b`. Raises KeyError for an unknown metric."""
    match METRICS[name].direction:
        case "lower":
            return a < b
        case "higher":
            return a > b
        case "one":
            return abs(a - 1.0) < abs(b - 1.0)
