"""What W&B shows of a card and of a comparison: numbers for the summary, rows for tables. Plain data, no wandb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen


@frozen
class Table:
    """A table by its columns and rows."""

    columns: list[str]
    rows: list[list[Any]]


def card_summary(card: Mapping[str, Any]) -> dict[str, float]:
    """`<model>/<metric>`, with `.low` and `.high`, of every model of a card."""
    return {
        name: value
        for model, block in card["models"].items()
        for metric, estimate in block["metrics"].items()
        for name, value in interval(f"{model}/{metric}", estimate).items()
    }


def interval(name: str, estimate: Mapping[str, Any]) -> dict[str, float]:
    """A value under its name, its bounds under `.low` and `.high`; what is unknown is left out."""
    found = {name: estimate["value"], f"{name}.low": estimate["low"], f"{name}.high": estimate["high"]}
    return {key: value for key, value in found.items() if value is not None}


def card_table(card: Mapping[str, Any]) -> Table:
    """One row per model and metric."""
    rows = [
        [model, block["label"], metric, estimate["value"], estimate["low"], estimate["high"]]
        for model, block in card["models"].items()
        for metric, estimate in block["metrics"].items()
    ]
    return Table(["model", "label", "metric", "value", "low", "high"], rows)


def frames_table(card: Mapping[str, Any]) -> Table:
    """Quality by frame: one row per model, quantity and frame."""
    rows = [
        [model, quantity, frame, value]
        for model, block in card["models"].items()
        for quantity, values in block["by_frame"].items()
        for frame, value in enumerate(values)
    ]
    return Table(["model", "quantity", "frame", "value"], rows)


def comparison_summary(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict and gain of every hypothesis on every axis of budget, and every arm's mean with its interval."""
    found: dict[str, Any] = {}
    for h in comparison["hypotheses"]:
        for axis, judged in h["on"].items():
            found[f"{h['name']}/{axis}/outcome"] = judged["outcome"]
            if judged["gain"] is not None:
                found |= interval(f"{h['name']}/{axis}/gain", judged["gain"])
    for row in comparison["paired"]:
        for arm, estimate in row["arms"].items():
            found |= interval(f"{arm}/{row['metric']}", estimate)
    return found


def hypotheses_table(comparison: Mapping[str, Any]) -> Table:
    """One row per hypothesis and axis of budget."""
    rows = []
    for h in comparison["hypotheses"]:
        for axis, judged in h["on"].items():
            gain = judged["gain"] or {"value": None, "low": None, "high": None}
            bounds = [gain["value"], gain["low"], gain["high"]]
            rows.append([h["statement"], h["metric"], axis, judged["outcome"], *bounds, judged["reason"]])
    return Table(["statement", "metric", "budget", "outcome", "gain", "low", "high", "reason"], rows)


def arms_table(comparison: Mapping[str, Any]) -> Table:
    """One row per metric, arm and seed."""
    rows = [
        [row["metric"], arm, int(seed), value]
        for row in comparison["paired"]
        for arm, estimate in row["arms"].items()
        for seed, value in estimate["seeds"].items()
    ]
    return Table(["metric", "arm", "seed", "value"], rows)
