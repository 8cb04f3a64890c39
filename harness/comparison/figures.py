"""The figures of a page, from one comparison: strips, paired dots, curves, quality by frame, clips."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from harness.comparison import plots, views
from harness.comparison.long_figures import strip_of_frames
from harness.config.metrics import OF_IMAGES, STATIC_COLLAPSE_ALARM
from harness.errors import HarnessError

CURVE_AXES = {
    "update": "generator updates",
    "teraflops": "measured compute after the teacher, TFLOP",
}
CURVE_METRICS = 2  # the primary and the first secondary one; the rest is in curves.csv
IMAGE_CURVES = ("static_collapse", *OF_IMAGES)  # drawn as well: how image to video fails


def gain_strips(comparison: Mapping[str, Any]) -> dict[str, dict[str, Markup]]:
    """Per hypothesis and axis: the gain as a strip. Strips of one metric share their scale."""
    strips: dict[str, dict[str, Markup]] = {}
    for h in comparison["hypotheses"]:
        same = [o for o in comparison["hypotheses"] if o["metric"] == h["metric"]]
        gains = [on["gain"] for o in same for on in o["on"].values() if on["gain"]]
        strips[h["name"]] = {}
        if not gains:
            continue
        scale = views.scale_of(gains, (0.0, h["smallest_effect"]))
        for axis, on in h["on"].items():
            if on["gain"] is None:
                continue
            g = on["gain"]
            alt = f"gain {views.number(g['value'])} {views.span(g)}, {on['outcome']}"
            low, high = (g["low"], g["high"]) if g["low"] is not None else (g["value"], g["value"])
            strips[h["name"]][axis] = Markup(
                plots.strip(
                    low,
                    high,
                    g["value"],
                    on["gains"],
                    scale,
                    views.OUTCOMES[on["outcome"]],
                    alt,
                    0.0,
                    h["smallest_effect"],
                )
            )
    return strips


def model_strips(comparison: Mapping[str, Any]) -> dict[tuple[str, str], Markup]:
    """Per model: the metric that students and baselines share as a strip, all on one scale."""
    metric = views.level(comparison)
    rows = [row for row in comparison["models"] if metric in row["metrics"]]
    if not rows:
        return {}
    scale = views.scale_of(row["metrics"][metric] for row in rows)
    order = [arm["name"] for arm in comparison["arms"]]
    strips = {}
    for row in rows:
        m = row["metrics"][metric]
        low, high = (m["low"], m["high"]) if m["low"] is not None else (m["value"], m["value"])
        css = f"series-{order.index(row['arm']) + 1}" if row.get("arm") and row["model"] == "student" else "reference"
        alt = f"{row['label']}: {views.number(m['value'])} {views.span(m)}"
        strips[(row["source"], row["model"])] = Markup(plots.strip(low, high, m["value"], (), scale, css, alt))
    return strips


def paired_figure(comparison: Mapping[str, Any]) -> Markup | None:
    """The primary metric of every seed, joined across the arms."""
    row = next((row for row in comparison["paired"] if row["metric"] == comparison["primary"]), None)
    if row is None:
        return None
    label = next(m["label"] for m in comparison["metrics"] if m["name"] == comparison["primary"])
    values = {arm["name"]: row["arms"][arm["name"]]["seeds"] for arm in comparison["arms"]}
    listed = "; ".join(
        f"{a['label']} {', '.join(views.number(v) for v in values[a['name']].values())}" for a in comparison["arms"]
    )
    labels = [arm["label"] for arm in comparison["arms"]]
    return Markup(plots.paired_plot(values, labels, label, "paired", f"{label}, every seed: {listed}"))


def curve_figures(comparison: Mapping[str, Any], rows: list[dict[str, str]]) -> list[Markup]:
    """Monitor curves of every run: primary and first secondary metric, and those of image to video, against updates and
    against compute.
    """
    order = [arm["name"] for arm in comparison["arms"]]
    figures = []
    measured = [m for m in comparison["metrics"] if any(row.get(m["name"]) for row in rows)]
    chosen = [m for m in measured if m["role"] != "guardrail" and m["name"] not in IMAGE_CURVES][:CURVE_METRICS]
    for metric in [*chosen, *(m for m in measured if m["name"] in IMAGE_CURVES)]:
        for axis, axis_label in CURVE_AXES.items():
            lines = []
            for arm in order:
                for seed in sorted({row["seed"] for row in rows if row["arm"] == arm}, key=int):
                    points = [
                        r for r in rows if r["arm"] == arm and r["seed"] == seed and r[metric["name"]] and r[axis]
                    ]
                    x, y = [float(r[axis]) for r in points], [float(r[metric["name"]]) for r in points]
                    lines.append(plots.Line(label=f"{arm} {seed}", x=x, y=y, series=order.index(arm)))
            alt = f"{metric['label']} against {axis_label}, {len(lines)} runs"
            mark = comparison["common_budget"].get(axis)
            name = f"curve-{metric['name']}-{axis}"
            level = STATIC_COLLAPSE_ALARM if metric["name"] == "static_collapse" else None
            figures.append(Markup(plots.line_plot(lines, axis_label, metric["label"], name, alt, mark, level)))
    return figures


def frame_figures(comparison: Mapping[str, Any]) -> list[Markup]:
    """Quality by frame index: every seed of every arm, with real clips and the teacher as references."""
    order = [arm["name"] for arm in comparison["arms"]]
    labels = views.metric_labels()
    figures = []
    for metric, models in sorted(comparison["by_frame"].items()):
        lines = []
        for model in [*(m for m in ("real", "teacher") if m in models), *order]:
            for series in models[model]:
                index = order.index(model) if model in order else None
                lines.append(plots.Line(label=model, x=range(len(series)), y=series, series=index))
        alt = f"{labels[metric]} by frame index"
        figures.append(Markup(plots.line_plot(lines, "frame", labels[metric], f"frame-{metric}", alt)))
    return figures


def clip_table(clips: Sequence[Mapping[str, Any]], folder: Path, strip: Sequence[int] | None = None) -> dict[str, Any]:
    """Clips as data URIs, a column per model and a row per prompt; each with a still for those who want no motion, and
    with a strip of the given frames.
    """
    columns = [column for column in clips if column["files"]]
    rows = min((len(column["files"]) for column in columns), default=0)
    prompts = next((column["prompts"] for column in columns if len(column["prompts"]) >= rows), [])
    table = []
    for i in range(rows):
        prompt = prompts[i] if i < len(prompts) else f"prompt {i + 1}"
        cells = [_clip(folder / column["files"][i], f"{column['label']}: {prompt}", strip) for column in columns]
        table.append({"prompt": prompt, "cells": cells})
    return {"columns": columns, "rows": table}


def _clip(path: Path, alt: str, strip: Sequence[int] | None) -> dict[str, str]:
    if not path.is_file():
        raise HarnessError(f"{path}: missing; run `python -m harness compare {path.parent.parent.name}` again")
    data = path.read_bytes()
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise HarnessError(f"{path}: no picture; run `python -m harness compare {path.parent.parent.name}`") from error
    with opened as image:
        kind = Image.MIME[str(image.format)]
        image.seek(getattr(image, "n_frames", 1) // 2)
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "PNG", optimize=True)
        width, height = image.size
    film = {} if strip is None else {"strip": _png(strip_of_frames(data, strip))}
    return {
        **film,
        "alt": alt,
        "moving": Markup(f"data:{kind};base64,{base64.b64encode(data).decode()}"),
        "still": _png(stream.getvalue()),
        "width": str(width),
        "height": str(height),
    }


def _png(data: bytes) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(data).decode()}")


def read_curves(path: Path) -> list[dict[str, str]]:
    """The rows of `curves.csv` as text; an empty cell means not measured.

    Raises:
        HarnessError: if the file is missing.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); run the comparison again") from error
