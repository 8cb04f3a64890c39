"""What the pages show, as words and small tables: pure functions of `comparison.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from harness.comparison.tables import level_metric
from harness.config.metrics import METRICS, OF_LONG_CLIPS, STATIC_COLLAPSE_ALARM

Comparison = Mapping[str, Any]
GROUPS = {
    "Real clips": ("real", "codec"),
    "Teacher": ("teacher", "teacher_cut_cfg", "teacher_cut"),
    "Causal SFT, not distilled": ("causal_sft", "causal_sft_euler", "causal_sft_cfg"),
}
OUTCOMES = {"supported": "yes", "not supported": "no", "undecided": "open"}  # verdict → CSS class
ROLES = {"real": "floor", "codec": "ceiling of the codec"}


@frozen
class Group:
    """Rows of the models' table under one heading."""

    title: str
    rows: list[Mapping[str, Any]]
    arm: int | None


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, thousands apart, a true minus; an en dash for nothing."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", "\u202f")
    elif abs(value) >= 100:
        text = f"{value:.0f}"
    else:
        text = f"{value:.{digits}g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
    return text.replace("-", "−")


def span(interval: Mapping[str, Any] | None) -> str:
    """`[low, high]`, or nothing when there is no interval."""
    if interval is None or interval.get("low") is None or interval.get("high") is None:
        return ""
    return f"[{number(interval['low'])}, {number(interval['high'])}]"


def p_value(p: float | None) -> str:
    """A p value in two digits, never as zero."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.2g}".replace("0.", ".", 1)


def metric_labels() -> dict[str, str]:
    """Names of metrics as a reader knows them."""
    return {name: metric.label for name, metric in METRICS.items()}


def headline(comparison: Comparison) -> str:
    """The answer in one sentence: the first hypothesis between arms, else the first of all."""
    hypotheses = comparison["hypotheses"]
    first = next((h for h in hypotheses if h["between_arms"]), hypotheses[0])
    return f"{first['statement'].rstrip('.')}: {first['summary']}."


def shared_runs(name: str, comparisons: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    """Arms of this experiment that are the very same runs as an arm of another: trained once, shown in both."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for arm, seeds in comparisons[name]["fingerprints"].items():
        for other, comparison in comparisons.items():
            if other == name:
                continue
            for other_arm, other_seeds in comparison["fingerprints"].items():
                same = [int(s) for s, f in seeds.items() if f is not None and f == other_seeds.get(s)]
                if same:
                    found[(arm, other, other_arm)] = sorted(same)
    return [{"arm": a, "experiment": e, "other_arm": o, "seeds": s} for (a, e, o), s in sorted(found.items())]


def grouped_models(comparison: Comparison) -> list[Group]:
    """The models' table in reading order: real, teacher, causal SFT, then each arm with its init."""
    rows = comparison["models"]
    groups = [
        Group(title, [row for name in names for row in rows if row["model"] == name and not row.get("arm")], None)
        for title, names in GROUPS.items()
    ]
    for i, arm in enumerate(comparison["arms"]):
        of_arm = sorted(
            (row for row in rows if row.get("arm") == arm["name"]), key=lambda row: row["model"] != "student"
        )
        groups.append(Group(arm["label"], of_arm, i))
    return [group for group in groups if group.rows]


def sampler(row: Mapping[str, Any]) -> str:
    """How a model was sampled, in a few words."""
    how = row["sampler"]
    words = []
    if "steps" in how:
        words.append(f"{how['steps']} step{'s' if how['steps'] != 1 else ''}")
    if how.get("cfg_scale", 1.0) != 1.0:
        words.append(f"guidance {number(how['cfg_scale'])}")
    return ", ".join(words) or "–"


def scale_of(intervals: Iterable[Mapping[str, Any]], include: Sequence[float] = ()) -> tuple[float, float]:
    """A common scale for strips: all values and interval ends, with a little room."""
    ends = [v for i in intervals for v in (i["low"], i["value"], i["high"]) if v is not None]
    ends += include
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def level(comparison: Comparison) -> str:
    """The metric that students and baselines are compared on."""
    metrics = [metric["name"] for metric in comparison["metrics"]]
    return level_metric(comparison["primary"], metrics, comparison["models"])


def level_in_words(comparison: Comparison) -> str:
    """What is to be known of that metric, in brackets; nothing where every baseline has it."""
    metric = level(comparison)
    if metric in OF_LONG_CLIPS:
        return " (only the students and what they start from make long clips)"
    if metric != comparison["primary"]:
        return " (the primary metric is measured against a model’s own teacher, so no baseline has it)"
    return ""


def own_teachers(comparison: Comparison) -> list[Mapping[str, Any]]:
    """The teachers with what their training cost, where arms have different ones; else nothing."""
    return comparison["budget"].get("teachers", [])


def teacher_in_words(comparison: Comparison, teacher: Mapping[str, Any]) -> str:
    """What one of several teachers cost, and what it started from."""
    labels = {arm["name"]: arm["label"] for arm in comparison["arms"]}
    after = f", after {' and '.join(teacher['after'])}" if teacher["after"] else ""
    taught = ", ".join(labels[arm] for arm in teacher["arms"])
    cost = f"{number(teacher['teraflops'])} TFLOP, {number(teacher['device_seconds'])} device seconds"
    return f"{teacher['target']} (of {taught}): {cost}{after}"


def collapse_lines(comparison: Comparison) -> list[str]:
    """A line for every run at whose readings the static-collapse alarm fired."""
    labels = {arm["name"]: arm["label"] for arm in comparison["arms"]}
    lines = []
    for run in comparison.get("static_collapse", ()):
        if not run["fired"]:
            continue
        updates = [str(reading["update"]) if reading["update"] else "0 (before training)" for reading in run["fired"]]
        at = f"at update{'s' if len(updates) > 1 else ''} {', '.join(updates)}"
        lines.append(
            f"Static collapse in {labels[run['arm']]}, seed {run['seed']}, {at}: after their first frame the clips "
            f"moved only {number(run['lowest'])} times as much as the teacher's "
            f"(alarm below {STATIC_COLLAPSE_ALARM:g}; {len(updates)} of {run['readings']} readings)."
        )
    return lines


def watched_in_words(comparison: Comparison) -> str:
    """How many runs the static-collapse alarm watched, and in how many it fired; nothing where it watched none."""
    runs = comparison.get("static_collapse", ())
    if not runs:
        return ""
    fired, lowest = sum(bool(run["fired"]) for run in runs), number(min(run["lowest"] for run in runs))
    alarm = f"The static-collapse alarm (below {STATIC_COLLAPSE_ALARM:g}) watched {len(runs)} runs"
    return f"{alarm} and fired in {fired}; the lowest reading is {lowest}."


def against_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The students' gains with a row per baseline and a cell per arm."""
    models = dict.fromkeys(row["model"] for row in comparison["against"])
    cells = {(row["model"], row["arm"]): row for row in comparison["against"]}
    arms = [arm["name"] for arm in comparison["arms"]]
    rows = []
    for model in models:
        found = [cells.get((model, arm)) for arm in arms]
        label = "its own init" if model == "init" else next(cell["label"] for cell in found if cell)
        if own_teachers(comparison) and model in GROUPS["Teacher"]:
            label = f"{label}, each arm's own"
        rows.append({"label": label, "cells": found})
    return rows


def gap_in_words(row: Mapping[str, Any]) -> str:
    """How far a student is from the full teacher."""
    value = row["gain"]["value"]
    if value < 0:
        return f"misses the full teacher by {number(-value)}"
    return f"is better than the full teacher by {number(value)}"


def teacher_gap(comparison: Comparison) -> list[Mapping[str, Any]]:
    """Each student against the full teacher."""
    return [row for row in comparison["against"] if row["model"] == "teacher"]


def budget_in_words(comparison: Comparison) -> str:
    """Whether the declared unit came out equal over all runs."""
    budget = comparison["budget"]
    unit = budget["unit"].replace("_", " ")
    if budget["low"] == budget["high"]:
        return f"Asked for and measured equal: {number(budget['low'])} {unit} in every run."
    spread = f"from {number(budget['low'])} to {number(budget['high'])} {unit}"
    if budget["equal"]:
        return f"Equal within the declared tolerance of {budget['tolerance']:.0%}: {spread}."
    return (
        f"Not equal: {spread}, beyond the declared tolerance of {budget['tolerance']:.0%}. No claim rests on this axis."
    )


def compute_by_arm(comparison: Comparison) -> list[dict[str, Any]]:
    """Mean measured budget per arm, its own and that of the stages before it."""
    keys = (
        "generator_updates", "critic_updates", "denoiser_forwards", "teraflops", "teraflops_before", "device_seconds",
        "device_seconds_before", "wall_seconds", "peak_memory_mib",
    )  # fmt: skip
    rows = []
    for arm in comparison["arms"]:
        runs = [run for run in comparison["budget"]["runs"] if run["arm"] == arm["name"]]
        known = {key: [run[key] for run in runs if run[key] is not None] for key in keys}
        rows.append({"label": arm["label"], **{k: sum(v) / len(v) if v else None for k, v in known.items()}})
    return rows


def distinct(rows: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    """The different values of a column, in order of appearance."""
    return list(dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None))


def input_digests(comparison: Comparison) -> dict[str, list[str]]:
    """The different digests of each named input (data, teacher, …) over all results."""
    found: dict[str, list[str]] = {}
    for row in comparison["provenance"]:
        for name, value in sorted((row.get("inputs") or {}).items()):
            if str(value) not in found.setdefault(name, []):
                found[name].append(str(value))
    return found


def total_cost(comparisons: Iterable[Comparison]) -> dict[str, float]:
    """Device seconds and teraflops over all distinct runs: a run shared by experiments counts once."""
    seen: dict[str, Mapping[str, float]] = {}
    for comparison in comparisons:
        for row in comparison["provenance"]:
            seen[row["fingerprint"] or row["target"]] = row.get("compute") or {}
    return {
        axis: sum(float(compute.get(axis, 0.0)) for compute in seen.values())
        for axis in ("device_seconds", "teraflops")
    } | {"runs": len(seen)}
