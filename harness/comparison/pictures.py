"""Pictures for the README, made from `comparisons/` alone: a grid of clips that moves, and the models on one axis."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from harness.comparison import plots, views
from harness.io import atomic_write_bytes

CELL, GAP, HEAD, SIDE = 96, 8, 34, 112  # pixels
BACKGROUND, TEXT, FAINT = (252, 251, 248), (28, 30, 33), (91, 96, 103)
COLORS = ("#1f5fa6", "#b04a12", "#2c7350", "#84408c")


def write_all(comparisons: Mapping[str, Mapping[str, Any]], source: Path, folder: Path) -> None:
    """Write `<experiment>_clips.webp` and `<experiment>_models.png` for every comparison that has what they show."""
    for name, comparison in comparisons.items():
        if any(column["files"] for column in comparison["clips"]):
            atomic_write_bytes(folder / f"{name}_clips.webp", clip_grid(comparison, source / name))
        if any(views.level(comparison) in row["metrics"] for row in comparison["models"]):
            atomic_write_bytes(folder / f"{name}_models.png", model_picture(comparison))


def clip_grid(comparison: Mapping[str, Any], folder: Path) -> bytes:
    """All clips of a comparison as one animated WebP: a column per model, a row per prompt, in step."""
    columns = [column for column in comparison["clips"] if column["files"]]
    rows = min(len(column["files"]) for column in columns)
    prompts = next((column["prompts"] for column in columns if len(column["prompts"]) >= rows), [""] * rows)
    cells = [[_frames(folder / column["files"][i]) for column in columns] for i in range(rows)]
    count = max(len(frames) for row in cells for frames in row)
    moving, _ = max(zip(columns, cells[0]), key=lambda cell: len(cell[1]))  # a given image stands still
    still = _frame_of_labels([column["label"] for column in columns], prompts[:rows])
    images = []
    for k in range(count):
        image = still.copy()
        for i, row in enumerate(cells):
            for j, frames in enumerate(row):
                image.paste(frames[k % len(frames)], (SIDE + j * (CELL + GAP), HEAD + i * (CELL + GAP)))
        images.append(image)
    stream = io.BytesIO()
    images[0].save(
        stream, "WEBP", save_all=True, append_images=images[1:], duration=_duration(folder / moving["files"][0]),
        loop=0, quality=82, method=4,
    )  # fmt: skip
    return stream.getvalue()


def model_picture(comparison: Mapping[str, Any]) -> bytes:
    """What students and baselines are compared on, of every model with its interval, as a PNG that reads on light and
    dark pages.
    """
    level = views.level(comparison)
    metric = next(m for m in comparison["metrics"] if m["name"] == level)
    groups = views.grouped_models(comparison)
    rows = [(row, group.arm) for group in groups for row in group.rows if level in row["metrics"]]
    style = {**plots.STYLE, "axes.grid.axis": "x", "text.color": "#1c1e21"}
    muted: dict[Any, Any] = dict.fromkeys(("axes.labelcolor", "xtick.labelcolor"), "#5b6067")
    quiet: dict[Any, Any] = dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), "#d8d4ca")
    with matplotlib.rc_context({**style, **quiet, **muted, "ytick.labelcolor": "#1c1e21"}):
        figure = Figure(figsize=(8.4, 0.34 * len(rows) + 0.9), dpi=144, layout="constrained", facecolor="#fcfbf8")
        axes = figure.add_subplot()
        for y, (row, arm) in enumerate(rows):
            m = row["metrics"][level]
            color = COLORS[arm % len(COLORS)] if arm is not None and row["model"] == "student" else "#5b6067"
            if m["low"] is not None:
                axes.hlines(y, m["low"], m["high"], color=color, linewidth=5, alpha=0.35)
            axes.plot([m["value"]], [y], marker="o", color=color, markersize=6)
        axes.set_yticks(range(len(rows)), [row["label"] for row, _ in rows])
        axes.invert_yaxis()
        better = {"lower": "lower is better", "higher": "higher is better", "one": "1 is right"}[metric["direction"]]
        axes.set_xlabel(f"{metric['label']}, {better}")
        axes.tick_params(length=0)
        stream = io.BytesIO()
        FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return stream.getvalue()


def _frame_of_labels(labels: Sequence[str], prompts: Sequence[str]) -> Image.Image:
    width, height = SIDE + len(labels) * (CELL + GAP), HEAD + len(prompts) * (CELL + GAP)
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    for j, label in enumerate(labels):
        text = _fold(draw, label, font, CELL, lines=2)
        draw.multiline_text((SIDE + j * (CELL + GAP), HEAD - 5), text, TEXT, font, anchor="ld", spacing=2)
    for i, prompt in enumerate(prompts):
        text = _fold(draw, prompt, font, SIDE - 14, lines=5)
        draw.multiline_text((8, HEAD + i * (CELL + GAP) + 4), text, FAINT, font, spacing=3)
    return image


def _fold(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int, lines: int) -> str:
    """Break a text into at most `lines` lines of `width` pixels; what does not fit ends in an ellipsis."""
    folded = [""]
    for word in text.split():
        longer = f"{folded[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width or not folded[-1]:
            folded[-1] = longer
        else:
            folded.append(word)
    if len(folded) > lines:
        folded = [*folded[: lines - 1], folded[lines - 1] + "…"]
    return "\n".join(folded)


def _frames(path: Path) -> list[Image.Image]:
    with Image.open(path) as image:
        frames = []
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            frame = image.convert("RGB")
            scale = CELL / max(frame.size)
            how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
            size = (round(frame.width * scale), round(frame.height * scale))
            frames.append(frame.resize(size, how))
        return frames


def _duration(path: Path) -> int:
    """Milliseconds per frame."""
    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        image.load()
        return int(image.info.get("duration") or 125)
