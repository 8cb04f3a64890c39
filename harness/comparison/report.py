"""`python -m harness report`: from `comparisons/` to `reports/`, a self-contained page per experiment and an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from harness.comparison import figures, long_figures, pictures, segments, views
from harness.comparison.compare import load_comparisons
from harness.comparison.statistics import smallest_sign_flip_p
from harness.io import atomic_write_text

TEMPLATES = Path(__file__).with_name("templates")


def main(root: str | Path = ".") -> Path:
    """Write all pages, and the pictures that the README shows; returns the index.

    Raises:
        HarnessError: if there is no comparison, or a file of one is missing.
    """
    root = Path(root)
    comparisons = load_comparisons(root)
    environment = _environment()
    folder = root / "reports"
    for name, comparison in comparisons.items():
        page = experiment_page(environment, comparison, comparisons, root / "comparisons" / name)
        atomic_write_text(folder / f"{name}.html", page)
    atomic_write_text(folder / "index.html", index_page(environment, comparisons))
    pictures.write_all(comparisons, root / "comparisons", folder / "images")
    for page in folder.glob("*.html"):  # of an experiment that is no more
        if page.stem not in (*comparisons, "index"):
            page.unlink()
    return folder / "index.html"


def index_page(environment: jinja2.Environment, comparisons: Mapping[str, Any]) -> str:
    """The list of experiments with their verdicts."""
    return environment.get_template("index.html.j2").render(
        title="What the experiments found",
        comparisons=comparisons,
        cost=views.total_cost(comparisons.values()),
        gains={name: figures.gain_strips(comparison) for name, comparison in comparisons.items()},
    )


def experiment_page(
    environment: jinja2.Environment, comparison: dict[str, Any], comparisons: Mapping[str, Any], folder: Path
) -> str:
    """One experiment, from the question down to the provenance."""
    declaration = comparison["declaration"]
    seeds = len(declaration["seeds"])
    return environment.get_template("experiment.html.j2").render(
        title=declaration["question"],
        c=comparison,
        d=declaration,
        labels={arm["name"]: arm["label"] for arm in comparison["arms"]},
        metric={metric["name"]: metric for metric in comparison["metrics"]},
        gains=figures.gain_strips(comparison),
        paired=figures.paired_figure(comparison),
        curves=figures.curve_figures(comparison, figures.read_curves(folder / "curves.csv")),
        drift=long_figures.drift_figures(comparison),
        frames=figures.frame_figures(comparison),
        clips=figures.clip_table(comparison["clips"], folder),
        **long_parts(comparison, folder),
        level=views.level(comparison),
        teachers=views.own_teachers(comparison),
        models=figures.model_strips(comparison),
        shared=views.shared_runs(declaration["name"], comparisons),
        cost=views.total_cost([comparison]),
        smallest_p=smallest_sign_flip_p(seeds),
    )


def long_parts(comparison: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the page shows of long clips; without a long evaluation there are no segments."""
    groups = segments.segment_groups(comparison)
    if not groups:
        return {"segment_groups": []}
    spans = segments.spans(comparison)
    frames = [*(first for first, _ in spans), comparison["long"]["frames"] - 1]
    return {
        "segment_groups": groups,
        "segment_spans": spans,
        "switch": long_figures.switch_figure(comparison),
        "cache": long_figures.cache_figure(comparison),
        "strip_frames": frames,
        "long_clips": figures.clip_table(comparison["long"]["shown"], folder, frames),
    }


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": views.number, "span": views.span, "p": views.p_value}
    environment.globals |= {
        "views": views,
        "outcomes": views.OUTCOMES,
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    }
    return environment
