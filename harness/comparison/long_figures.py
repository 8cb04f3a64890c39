"""The figures of a page on what happens with time: drift, the prompt switch, the cache, and strips of frames."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from harness.comparison import plots, views
from harness.comparison.drift import ArmDrift, drifts, spread_over_seeds, trained_frames

STRIP_GAP = 1  # pixels between the frames of a strip


def drift_figures(comparison: Mapping[str, Any]) -> list[Markup]:
    """Every metric against the pixel frame: a line and a band per arm, beside the teacher and real clips."""
    figures = []
    for drift in drifts(comparison):
        ends = "; ".join(
            f"{_labels(comparison)[arm.arm]} {views.number(arm.mean[0])} to {views.number(arm.mean[-1])}"
            for arm in drift.arms
        )
        alt = f"{drift.label} against the pixel frame, mean and band over seeds, first to last: {ends}"
        real = [] if drift.real is None else [plots.Line(label="real", x=drift.real[0], y=drift.real[1])]
        order = list(_labels(comparison))
        levels = [
            plots.Level(low=of.low, high=of.high, series=None if of.arm is None else order.index(of.arm))
            for of in drift.teachers
        ]
        bands, name = _bands(comparison, drift.arms), f"drift-{drift.metric}"
        figures.append(
            Markup(plots.drift_plot(bands, levels, real, drift.trained, "pixel frame", drift.label, name, alt))
        )
    return figures


def switch_figure(comparison: Mapping[str, Any]) -> Markup | None:
    """The share of clips that obey the new prompt against the pixel frames since it came."""
    switch = comparison.get("long", {}).get("switch")
    if switch is None:
        return None
    arms = [
        spread_over_seeds(arm, switch["frame"], list(of.values())) for arm, of in _ordered(comparison, switch["obeyed"])
    ]
    ends = "; ".join(f"{_labels(comparison)[arm.arm]} {views.number(arm.mean[-1])}" for arm in arms)
    title, axis = "Share of clips that obey the new prompt", "pixel frames after the switch"
    alt = f"{title} against {axis}, mean and band over seeds, in the end: {ends}"
    bands = _bands(comparison, arms)
    return Markup(plots.drift_plot(bands, [], [], None, axis, title, "switch", alt))


def cache_figure(comparison: Mapping[str, Any]) -> Markup | None:
    """Keys and values of one clip against the length of the video so far."""
    cache = comparison.get("long", {}).get("cache")
    if not cache:
        return None
    arms = [spread_over_seeds(arm, of["frame"], list(of["mib"].values())) for arm, of in _ordered(comparison, cache)]
    ends = "; ".join(f"{_labels(comparison)[arm.arm]} {views.number(arm.mean[-1])}" for arm in arms)
    title, axis = "Keys and values of one clip, MiB", "length of the video so far, pixel frames"
    alt = f"{title} against {axis}; in the end: {ends}"
    end = trained_frames(comparison)
    return Markup(plots.drift_plot(_bands(comparison, arms), [], [], end, axis, title, "cache", alt))


def strip_of_frames(data: bytes, frames: Sequence[int]) -> bytes:
    """Some frames of an animation side by side in a PNG, in the order of time; an index beyond its end is the last."""
    with Image.open(io.BytesIO(data)) as image:
        last = getattr(image, "n_frames", 1) - 1
        shown = []
        for index in frames:
            image.seek(min(index, last))
            shown.append(image.convert("RGB"))
    width, height = shown[0].size
    strip = Image.new("RGBA", (len(shown) * (width + STRIP_GAP) - STRIP_GAP, height))
    for i, frame in enumerate(shown):
        strip.paste(frame, (i * (width + STRIP_GAP), 0))
    stream = io.BytesIO()
    strip.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _bands(comparison: Mapping[str, Any], arms: Sequence[ArmDrift]) -> list[plots.Band]:
    order = list(_labels(comparison))
    return [
        plots.Band(x=arm.frame, mean=arm.mean, low=arm.low, high=arm.high, series=order.index(arm.arm)) for arm in arms
    ]


def _ordered(comparison: Mapping[str, Any], arms: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What each arm has, in the order of the declaration: files are sorted by name."""
    return [(name, arms[name]) for name in _labels(comparison) if name in arms]


def _labels(comparison: Mapping[str, Any]) -> dict[str, str]:
    return {arm["name"]: arm["label"] for arm in comparison["arms"]}
