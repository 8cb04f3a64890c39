"""`python -m harness wandb report EXPERIMENT`: a comparison as a W&B Report, over runs that were uploaded.

A runset per arm; curves as the mean over seeds with its spread; bars with intervals; clips side by side; what differs.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.metrics import METRICS
from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.tracking.run_ids import compare_id, evaluate_id, project, train_id
from harness.tracking.server import is_there
from harness.tracking.store import HOME

WIDTH = 24  # columns of W&B's grid
HEIGHT = 8
TITLE_LENGTH = 128  # W&B refuses longer ones
NOT_IN_ADDRESSES = r"[?#/%&]"  # the title is part of the report's address, as it stands


def run_ids(comparison: Mapping[str, Any], root: Path) -> dict[str, dict[str, list[str]]]:
    """Arm → `train` and `evaluate` → ids of its runs, in the order of the seeds.

    Raises:
        HarnessError: a card or manifest is missing.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for arm, seeds in comparison["fingerprints"].items():
        found[arm] = {"train": [], "evaluate": []}
        for seed, fingerprint in seeds.items():
            card = read_json(root / "results" / comparison["experiment"] / arm / f"seed{seed}" / "cards.json")
            found[arm]["train"].append(train_id(fingerprint))
            found[arm]["evaluate"].append(evaluate_id(card, fingerprint))
    return found


def value_text(estimate: Mapping[str, Any] | None) -> str:
    """A value with its interval."""
    if estimate is None:
        return "–"
    span = "" if estimate["low"] is None else f" [{estimate['low']:.3g}, {estimate['high']:.3g}]"
    return f"{estimate['value']:.3g}{span}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict_table(comparison: Mapping[str, Any]) -> str:
    """Hypotheses on both axes of budget."""
    rows = [
        [h["statement"], METRICS[h["metric"]].label, axis, judged["outcome"], value_text(judged["gain"])]
        for h in comparison["hypotheses"]
        for axis, judged in h["on"].items()
    ]
    return markdown_table(["Hypothesis", "Metric", "Budget", "Outcome", "Gain"], rows)


def paired_table(comparison: Mapping[str, Any]) -> str:
    """Every metric of every arm: mean over seeds with its t interval, then each seed."""
    labels = {arm["name"]: arm["label"] for arm in comparison["arms"]}
    rows = [
        [METRICS[row["metric"]].label, labels[arm], value_text(estimate), ", ".join(f"{v:.3g}" for v in seeds.values())]
        for row in comparison["paired"]
        for arm, estimate in row["arms"].items()
        for seeds in [estimate["seeds"]]
    ]
    return markdown_table(["Metric", "Arm", "Mean over seeds, interval", "Each seed"], rows)


def difference_table(comparison: Mapping[str, Any]) -> str:
    """Settings in which the arms differ."""
    arms = [arm["name"] for arm in comparison["arms"]]
    rows = [
        [name, *(str(values[arm]) for arm in arms)] for name, values in sorted(comparison["settings"]["differ"].items())
    ]
    return markdown_table(["Setting", *arms], rows)


def library() -> tuple[Any, Any]:
    """wandb_workspaces' reports and filter expressions.

    Raises:
        HarnessError: the extra `wandb-report` is not installed.
    """
    try:
        return importlib.import_module("wandb_workspaces.reports.v2"), importlib.import_module("wandb_workspaces.expr")
    except ImportError as error:
        raise HarnessError(
            "the package wandb-workspaces is missing: run `pip install wandb-workspaces` (the extra `wandb-report`)"
        ) from error


def build(comparison: Mapping[str, Any], ids: Mapping[str, Mapping[str, list[str]]], entity: str, where: str) -> Any:
    """The report, not yet saved. `where` is the W&B project. Sends nothing.

    Raises:
        HarnessError: the extra `wandb-report` is not installed.
    """
    wr, expr = library()
    labels = {arm["name"]: arm["label"] for arm in comparison["arms"]}
    metrics = [metric["name"] for metric in comparison["metrics"]]
    declaration = comparison["declaration"]

    def runset(name: str, wanted: list[str], *, grouped: bool) -> Any:
        return wr.Runset(
            name=name, filters=[expr.Metric("ID").isin(wanted)], groupby=["config.preset"] if grouped else []
        )

    def arms(kind: str) -> list[Any]:
        return [runset(labels[arm], ids[arm][kind], grouped=True) for arm in ids]

    def place(number: int, columns: int, height: int = HEIGHT) -> Any:
        width = WIDTH // columns
        return wr.Layout(x=width * (number % columns), y=height * (number // columns), w=width, h=height)

    curves = [
        wr.LinePlot(
            title=METRICS[metric].label,
            x="quality/update",
            y=[f"quality/{metric}"],
            title_x="generator updates",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            layout=place(number, 2),
        )
        for number, metric in enumerate(metrics)
    ]
    bars = [
        wr.BarPlot(
            title=f"{METRICS[metric].label}: mean over seeds, ± one standard error",
            metrics=[wr.SummaryMetric(f"student/{metric}")],
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            layout=place(number, 2),
        )
        for number, metric in enumerate(metrics)
    ]
    clips = [
        wr.MediaBrowser(
            title=column["label"], media_keys=[f"clips/{column['name']}"], num_columns=1, layout=place(number, 3, 16)
        )
        for number, column in enumerate(comparison["clips"])
    ]
    compared = runset("comparison", [compare_id(comparison)], grouped=False)
    first = [runset(labels[arm], ids[arm]["train"][:1], grouped=False) for arm in ids]
    return wr.Report(
        entity=entity,
        project=where,
        title=re.sub(NOT_IN_ADDRESSES, "", declaration["question"])[:TITLE_LENGTH],
        description=declaration["claim"],
        width="fluid",
        blocks=[
            wr.H2("Verdict"),
            wr.MarkdownBlock(verdict_table(comparison)),
            wr.H2("Arms"),
            wr.MarkdownBlock(paired_table(comparison)),
            wr.PanelGrid(runsets=arms("evaluate"), panels=bars),
            wr.H2("Curves"),
            wr.P("Quality on fixed prompts and noise while training: mean over seeds, from the lowest to the highest."),
            wr.PanelGrid(runsets=arms("train"), panels=curves),
            wr.H2("Clips"),
            wr.P("The same prompts and noise in every column, of the first declared seed."),
            wr.PanelGrid(runsets=[compared], panels=clips),
            wr.H2("What differs"),
            wr.MarkdownBlock(difference_table(comparison)),
            wr.PanelGrid(runsets=first, panels=[wr.RunComparer(diff_only="split", layout=place(0, 1, 16))]),
        ],
    )


def report(experiment: str, root: Path, *, entity: str | None, out: Path | None) -> int:
    """Save an experiment's report at W&B, in the place of an earlier one, and check that it is there.

    With `out`, the report's JSON is written there instead and nothing is sent.

    Raises:
        HarnessError: the comparison is missing, runs are not uploaded, or W&B does not take the report.
    """
    comparison = read_json(root / "comparisons" / experiment / "comparison.json")
    ids = run_ids(comparison, root)
    where = project(os.environ)
    if out is not None:
        made = build(comparison, ids, entity or os.environ.get("WANDB_ENTITY") or "entity", where)
        write_json(out, made._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True))
        print(out)
        return 0
    import wandb

    try:
        owner = entity or os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity
        wanted = [compare_id(comparison), *(id for arm in ids.values() for kind in arm.values() for id in kind)]
        absent = [id for id in wanted if not is_there(str(owner), where, id)]
        if absent:
            raise HarnessError(
                f"{len(absent)} of {len(wanted)} runs of {experiment} are not at W&B ({', '.join(absent[:3])}); run "
                f"`python -m harness wandb sync {experiment}` first"
            )
        made = build(comparison, ids, str(owner), where)
        url = save(made, root / HOME / "reports" / f"{experiment}.json", wandb.Api().settings["base_url"])
    except HarnessError:
        raise
    except Exception as error:  # wandb raises many kinds
        raise HarnessError(
            f"W&B did not take the report ({type(error).__name__}: {error}); check WANDB_API_KEY, WANDB_BASE_URL and "
            "the network, then run again; `--out FILE` writes it without sending"
        ) from error
    print(f"Report: {url}")
    return 0


def save(made: Any, note: Path, server: str) -> str:
    """Save a report in the place of the one in `note` (a file that says where it lies), read it back; its address.

    Raises:
        HarnessError: the server says that it has it, but has other content.
    """
    wr, _ = library()
    place = {"server": server, "entity": made.entity, "project": made.project}
    known = read_json(note) if note.is_file() else {}
    if {key: known.get(key) for key in place} == place:
        made.id = known["id"]
    made.save()
    write_json(note, {**place, "id": made.id})
    try:
        kept = wr.Report.from_url(made.url, as_model=True)
    except TypeError as error:  # wandb_workspaces, where the server has no such report
        raise HarnessError(f"{made.url}: W&B took the report and does not have it; run again") from error
    if len(kept.spec.blocks) != len(made._to_model().spec.blocks):
        raise HarnessError(f"{made.url}: W&B has another report than was sent; run again")
    return made.url
