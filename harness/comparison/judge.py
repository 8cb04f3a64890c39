"""A verdict per hypothesis, at equal generator updates and at equal measured compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from harness.comparison.curves import AXES, STOPWATCH, Curve, by_seed, common_budget
from harness.comparison.declaration import BASELINES, Declaration, Hypothesis
from harness.comparison.results import Result, Results
from harness.comparison.statistics import (
    Interval,
    Verdict,
    holm,
    intervals_apart,
    mean_interval,
    sign_flip_p,
    smallest_sign_flip_p,
    t_test_p,
    verdict,
)
from harness.config.metrics import METRICS

Seeded = dict[int, float]


@attrs.frozen(kw_only=True)
class Side:
    """What a student is held against, on one metric: one value per seed, and its own interval."""

    model: str
    label: str
    values: Seeded
    interval: Interval


@attrs.frozen(kw_only=True)
class Evidence:
    """The gains that a hypothesis is judged by on one axis; `missing` says why there are none."""

    gains: tuple[float, ...] = ()
    apart: bool | None = None
    missing: str = ""


@attrs.frozen(kw_only=True)
class Claim:
    """One test: a hypothesis on one axis, at `budget` there (None: at the end of every run)."""

    entry: dict[str, Any]
    axis: str
    evidence: Evidence
    budget: float | None = None


def gain(metric: str, a: float, b: float) -> float:
    """How much better `a` is than `b`, in the metric's unit: positive is better, whatever the metric's direction."""
    match METRICS[metric].direction:
        case "lower":
            return b - a
        case "higher":
            return a - b
        case "one":
            return abs(b - 1.0) - abs(a - 1.0)


def student_values(seeds: Mapping[int, Result], metric: str, model: str = "student") -> Seeded:
    """A model's metric on the cards of an arm, seed by seed; seeds whose card lacks it are left out."""
    found = {seed: result.metric(model, metric) for seed, result in seeds.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def card_interval(result: Result, model: str, metric: str) -> Interval | None:
    """A metric with the interval of its evaluation (noise sets, not training seeds)."""
    entry = result.cards["models"].get(model, {}).get("metrics", {}).get(metric)
    if entry is None or entry["value"] is None:
        return None
    return Interval(float(entry["value"]), entry.get("low"), entry.get("high"), 1)


def strongest_baseline(results: Results, arm: str, group: str, metric: str, confidence: float) -> Side | None:
    """The best model of a baseline group on a metric (by its mean over seeds), or None when no card has the metric, or
    the experiment not the group.

    Only models that take no more forwards than the student count.
    """
    if group == "causal_sft" and not results.causal_sft:
        return None
    allowed = forwards(next(iter(results.arms[arm].values())), "student")
    sources = {m: _source(results, arm, m) for m in BASELINES[group]}
    fair = [m for m, source in sources.items() if forwards(source, m) <= allowed]
    sides = [baseline_side(results, arm, model, metric, confidence) for model in fair]
    present = [side for side in sides if side is not None]
    return max(present, key=lambda side: gain(metric, side.interval.value, 1.0), default=None)


def forwards(result: Result, model: str) -> float:
    """Denoiser evaluations that a frame gets from the sampler, guidance included; infinite if the model is missing."""
    entry = result.cards["models"].get(model)
    return float("inf") if entry is None else float(entry["sampler"]["forwards"])


def _source(results: Results, arm: str, model: str) -> Result:
    """A result whose card has the model."""
    if model in results.teachers[arm].cards["models"]:
        return results.teachers[arm]
    return next(iter((results.arms[arm] if model == "init" else results.causal_sft).values()))


def baseline_side(results: Results, arm: str, model: str, metric: str, confidence: float) -> Side | None:
    """One baseline as a side: the arm's init and causal SFT have a value per seed, its teacher's models one for all."""
    teacher = results.teachers[arm]
    if model in teacher.cards["models"]:
        interval = card_interval(teacher, model, metric)
        values = {} if interval is None else dict.fromkeys(results.arms[arm], interval.value)
        label = teacher.cards["models"][model]["label"]
    else:
        source = results.arms[arm] if model == "init" else results.causal_sft
        values = student_values(source, metric, model)
        interval = _over_seeds(source, model, metric, values, confidence)
        label = next(iter(source.values())).cards["models"][model]["label"]
    return None if interval is None else Side(model=model, label=label, values=values, interval=interval)


def _over_seeds(
    source: Mapping[int, Result], model: str, metric: str, values: Seeded, confidence: float
) -> Interval | None:
    """The interval over seeds; over clips when all seeds are one model (weights that no seed trained)."""
    if len(values) < len(source):
        return None
    if len(values) > 1 and len(set(values.values())) == 1:
        return card_interval(next(iter(source.values())), model, metric)
    return mean_interval(list(values.values()), confidence)


def judge(
    declaration: Declaration, results: Results, curves: Sequence[Curve], parity: str | None
) -> list[dict[str, Any]]:
    """All hypotheses with their verdicts, as plain data. `parity` says why budgets differ, if they do."""
    sides = [_other_side(declaration, results, h) for h in declaration.hypotheses]
    entries = [_entry(declaration, h, side) for h, side in zip(declaration.hypotheses, sides)]
    updates = [_at_equal_updates(declaration, results, h, side) for h, side in zip(declaration.hypotheses, sides)]
    if parity:
        updates = [
            Evidence(missing=parity) if h.than in declaration.arms else e
            for h, e in zip(declaration.hypotheses, updates)
        ]
    claims = [Claim(entry=entry, axis="updates", evidence=e) for entry, e in zip(entries, updates)]
    for axis in AXES:
        budget = common_budget(curves, axis)
        claims += [
            Claim(entry=entry, axis=axis, evidence=_at_equal_compute(h, curves, axis, budget), budget=budget)
            for h, entry in zip(declaration.hypotheses, entries)
            if h.than in declaration.arms
        ]
    _add_verdicts(claims, declaration.analysis.confidence)
    return [{**entry, "summary": _in_words(entry)} for entry in entries]


def _entry(declaration: Declaration, h: Hypothesis, side: Side | None) -> dict[str, Any]:
    return {
        "name": h.name,
        "statement": h.statement,
        "arm": h.arm,
        "than": h.than,
        "between_arms": h.than in declaration.arms,
        "against": side.model if side else h.than,
        "against_label": side.label if side else h.than,
        "metric": h.metric,
        "smallest_effect": declaration.smallest_effect(h.metric, h),
        "on": {},
    }


def _other_side(declaration: Declaration, results: Results, h: Hypothesis) -> Side | None:
    confidence = declaration.analysis.confidence
    if h.than in BASELINES:
        return strongest_baseline(results, h.arm, h.than, h.metric, confidence)
    values = student_values(results.arms[h.than], h.metric)
    if not values:
        return None
    label = declaration.arms[h.than].label
    return Side(model=h.than, label=label, values=values, interval=mean_interval(list(values.values()), confidence))


def _at_equal_updates(declaration: Declaration, results: Results, h: Hypothesis, side: Side | None) -> Evidence:
    student = student_values(results.arms[h.arm], h.metric)
    if side is None or set(student) != set(declaration.seeds) or set(side.values) != set(declaration.seeds):
        return Evidence(missing=f"{h.metric} is not on the cards of every seed")
    gains = tuple(gain(h.metric, student[seed], side.values[seed]) for seed in sorted(student))
    own = mean_interval(list(student.values()), declaration.analysis.confidence)
    return Evidence(gains=gains, apart=intervals_apart(own, side.interval))


def _at_equal_compute(h: Hypothesis, curves: Iterable[Curve], axis: Any, budget: float) -> Evidence:
    runs = by_seed(curves)
    gains = []
    for seed in sorted({seed for _, seed in runs}):
        pair = [runs[(arm, seed)].at(axis, budget, h.metric) for arm in (h.arm, h.than)]
        for arm, value in zip((h.arm, h.than), pair):
            if value is None:
                return Evidence(missing=_why_unmeasured(runs[(arm, seed)], axis, budget, h.metric))
        gains.append(gain(h.metric, *(float(value) for value in pair if value is not None)))
    return Evidence(gains=tuple(gains))


def _why_unmeasured(curve: Curve, axis: str, budget: float, metric: str) -> str:
    if not any(metric in row for row in curve.rows):
        return f"{metric} was not measured during training"
    if budget < curve.before[axis]:
        return (
            f"at the cost that every arm reached ({budget:.3g}), arm {curve.arm} was still in the stages before "
            f"its own training (they cost {curve.before[axis]:.3g})"
        )
    return f"arm {curve.arm}, seed {curve.seed} has no reading of {metric} at a cost of {budget:.3g}"


def adjust(p_values: Sequence[float | None], timed: Sequence[bool]) -> tuple[list[float | None], int]:
    """The p values of all claims adjusted together, whatever their axis, and how many tests that are.

    Claims on measured seconds (`timed`) count for the others, but do not rank among them: a stopwatch must not decide
    what is found at equal updates or equal compute.
    """
    counted = [None if of_stopwatch else p for p, of_stopwatch in zip(p_values, timed)]
    seconds = sum(timed)
    together, apart = holm(p_values), holm(counted, others=seconds)
    adjusted = [a if of_stopwatch else b for a, b, of_stopwatch in zip(together, apart, timed)]
    return adjusted, sum(p is not None for p in counted) + seconds


def _add_verdicts(claims: Sequence[Claim], confidence: float) -> None:
    """Write the verdict of each claim under `entry["on"][axis]`."""
    p_values = [t_test_p(claim.evidence.gains) for claim in claims]
    adjusted, family = adjust(p_values, [claim.axis == STOPWATCH for claim in claims])
    for claim, p, p_adjusted in zip(claims, p_values, adjusted):
        entry, e = claim.entry, claim.evidence
        if e.missing:
            entry["on"][claim.axis] = {
                "outcome": "undecided",
                "reason": e.missing,
                "budget": claim.budget,
                "gain": None,
            }
            continue
        interval = mean_interval(e.gains, confidence)
        found = verdict(interval, p_adjusted, entry["smallest_effect"], confidence, family)
        found = found if entry["between_arms"] else _demand_apart(found, e.apart)
        entry["on"][claim.axis] = {
            "outcome": found.outcome,
            "reason": found.reason,
            "budget": claim.budget,
            "gain": attrs.asdict(interval),
            "gains": list(e.gains),
            "apart": e.apart,
            "p_t": p,
            "p_holm": p_adjusted,
            "p_sign_flip": sign_flip_p(e.gains),
            "p_sign_flip_smallest": smallest_sign_flip_p(len(e.gains)),
        }


def _demand_apart(found: Verdict, apart: bool | None) -> Verdict:
    """A claim over a baseline also needs the intervals apart: a baseline's evaluation noise is not paired away."""
    if found.outcome == "supported" and apart is False:
        return Verdict("undecided", f"{found.reason}; but the intervals of student and baseline overlap")
    return found


def _in_words(entry: Mapping[str, Any]) -> str:
    """On which axes the statement holds."""
    outcomes = {axis: entry["on"][axis]["outcome"] for axis in entry["on"]}
    if not entry["between_arms"]:
        return outcomes["updates"]
    names = {"updates": "equal generator updates", "teraflops": "equal measured compute"}
    if len({outcomes[axis] for axis in names}) == 1:
        return f"{outcomes['updates']} at {names['updates']} and at {names['teraflops']}"
    return "; ".join(f"{outcomes[axis]} at {name}" for axis, name in names.items())
