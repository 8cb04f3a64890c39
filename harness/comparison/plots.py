"""Figures as inline SVG: the same bytes on every build, colored by the page (light or dark), with real text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from attrs import field, frozen
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Drawn in these colors, which no data has, and replaced by the page's variables: one figure serves both color schemes.
INK, MUTED, RULE = "#010203", "#020304", "#030405"
SERIES = ("#040506", "#050607", "#060708", "#070809")
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", **{color: f"arm-{i + 1}" for i, color in enumerate(SERIES)}}
SIZE = (5.0, 3.3)  # inches at 72 dpi: 360 × 238 px, readable on a phone without scaling
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "figures",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
MARKERS = ("o", "s", "^", "D")


@frozen(kw_only=True)
class Line:
    """One run on a plot. `series` picks color and marker; None is a muted reference."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    series: int | None = field(default=None)


@frozen(kw_only=True)
class Band:
    """One arm on a drift plot: the mean over its seeds, and their smallest and largest value. NaN: not measured."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    series: int


@frozen(kw_only=True)
class Level:
    """A range that a reference keeps to; `series` edges it in the color of the arm that it belongs to."""

    low: float
    high: float
    series: int | None = field(default=None)


def line_plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    name: str,
    alt: str,
    mark_x: float | None = None,
    mark_y: float | None = None,
) -> str:
    """Curves, one per run; a vertical mark where runs are compared, a horizontal one at a limit. `name` makes its ids
    unique on a page.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(x_label, y_label)
        for line in lines:
            if line.series is None:
                axes.plot(line.x, line.y, color=MUTED, dashes=(4, 3), linewidth=1.2)
                continue
            dense = len(line.x) > 16
            axes.plot(
                line.x,
                line.y,
                color=SERIES[line.series % len(SERIES)],
                marker="" if dense else MARKERS[line.series % len(MARKERS)],
                markersize=4,
                alpha=0.85,
            )
        if mark_x is not None:
            axes.axvline(mark_x, color=INK, dashes=(1, 2), linewidth=1.1)
        if mark_y is not None:
            axes.axhline(mark_y, color=INK, dashes=(6, 2), linewidth=1.1)
        return _svg(figure, name, alt)


def drift_plot(
    bands: Sequence[Band],
    levels: Sequence[Level],
    references: Sequence[Line],
    mark_x: float | None,
    x_label: str,
    y_label: str,
    name: str,
    alt: str,
) -> str:
    """A line with its band per arm, over time. `levels` are known up to `mark_x`: filled up to there, their ends
    continued as dashed lines as far as the arms go.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(x_label, y_label)
        end = max(x for band in bands for x in band.x)
        known = end if mark_x is None else min(mark_x, end)
        for level in levels:
            ends = [level.low, level.high]
            axes.fill_between([0, known], level.low, level.high, color=MUTED, alpha=0.2, linewidth=0)
            if level.series is not None:
                axes.hlines(ends, 0, known, color=SERIES[level.series % len(SERIES)], linewidth=0.9)
            if end > known:
                color = MUTED if level.series is None else SERIES[level.series % len(SERIES)]
                axes.hlines(ends, known, end, color=color, linestyles=(0, (4, 3)), linewidth=1.0)
        for line in references:
            axes.plot(line.x, line.y, color=MUTED, dashes=(1, 1.5), linewidth=1.4)
        for band in bands:
            color, dense = SERIES[band.series % len(SERIES)], len(band.x) > 16
            axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.2, linewidth=0)
            marker = "" if dense else MARKERS[band.series % len(MARKERS)]
            axes.plot(band.x, band.mean, color=color, marker=marker, markersize=4)
        if end > known:
            axes.axvline(known, color=INK, dashes=(1, 2), linewidth=1.1)
        return _svg(figure, name, alt)


def paired_plot(
    values: Mapping[str, Mapping[str, float]], labels: Sequence[str], y_label: str, name: str, alt: str
) -> str:
    """Every seed as a dot per arm (in the given order), joined across the arms: the pairing itself."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure("", y_label)
        arms = list(values)
        seeds = [seed for seed in values[arms[0]] if all(seed in values[arm] for arm in arms)]
        for seed in seeds:
            axes.plot(range(len(arms)), [values[arm][seed] for arm in arms], color=MUTED, linewidth=1.0, zorder=1)
        for i, arm in enumerate(arms):
            heights = list(values[arm].values())
            marker, color = MARKERS[i % len(MARKERS)], SERIES[i % len(SERIES)]
            axes.scatter([i] * len(heights), heights, color=color, marker=marker, s=34, zorder=2)
            axes.hlines(sum(heights) / len(heights), i - 0.14, i + 0.14, color=color, linewidth=2.4, zorder=1)
        axes.set_xticks(range(len(arms)), labels)
        axes.tick_params(axis="x", labelcolor=INK)
        axes.set_xlim(-0.4, len(arms) - 0.5)
        last = {seed: values[arms[-1]][seed] for seed in seeds}
        low, high = axes.get_ylim()
        for seed, height in spread(last, 0.055 * (high - low)).items():
            at = (len(arms) - 1, height)
            axes.annotate(f"seed {seed}", at, (24, 0), textcoords="offset points", va="center", annotation_clip=False,
                          fontsize=8.5, color=MUTED)  # fmt: skip
        return _svg(figure, name, alt)


def strip(low: float, high: float, value: float, dots: Sequence[float], scale: tuple[float, float], css: str, alt: str,
          zero: float | None = None, threshold: float | None = None) -> str:  # fmt: skip
    """An interval on one line, for a table cell: whisker, mean, seeds as dots; shaded from `zero` to `threshold`."""
    width, height = 220.0, 22.0

    def at(x: float) -> str:
        inside = min(max((x - scale[0]) / (scale[1] - scale[0]), 0.0), 1.0)
        return f"{4 + inside * (width - 8):.1f}"

    box = f"0 0 {width:.0f} {height:.0f}"
    parts = [f'<svg class="strip {escape(css)}" viewBox="{box}" role="img" aria-label="{escape(alt)}">']
    if zero is not None and threshold:
        x0, x1 = float(at(zero)), float(at(threshold))
        parts.append(f'<rect class="zone" x="{x0:.1f}" y="1" width="{x1 - x0:.1f}" height="20"/>')
    parts.append(f'<line class="track" x1="4" x2="{width - 4:.0f}" y1="11" y2="11"/>')
    if zero is not None:
        parts.append(f'<line class="zero" x1="{at(zero)}" x2="{at(zero)}" y1="1" y2="21"/>')
    parts.append(f'<line class="whisker" x1="{at(low)}" x2="{at(high)}" y1="11" y2="11"/>')
    parts += [f'<circle class="seed" cx="{at(dot)}" cy="11" r="2.6"/>' for dot in dots]
    parts.append(f'<line class="mean" x1="{at(value)}" x2="{at(value)}" y1="5" y2="17"/></svg>')
    return "".join(parts)


def spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights of labels, moved up where two would be closer than `gap`."""
    placed: dict[str, float] = {}
    below = -float("inf")
    for label, height in sorted(heights.items(), key=lambda item: item[1]):
        below = placed[label] = max(height, below + gap)
    return placed


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", fontsize=10, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(length=3)
    return figure, axes


def _svg(figure: Figure, name: str, alt: str) -> str:
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline(stream.getvalue(), name, alt)


def inline(text: str, name: str, alt: str) -> str:
    """A matplotlib SVG file as an element of a page: no prologue or namespaces, own ids, the page's colors."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _open_tag(svg, alt).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)  # a rule for `*`: the whole page
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.strip()


def _open_tag(svg: str, alt: str) -> str:
    view_box = re.search(r'viewBox="([^"]+)"', svg)
    box = view_box.group(1) if view_box else "0 0 360 238"
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{escape(alt)}">' + svg[svg.index(">") + 1 :]
