"""The comparison's tables as plain data: paired metrics, baselines, guardrails, settings, budget, provenance."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import combinations
from typing import Any

import attrs

from harness.comparison.cards import REAL, REQUIRED_MODELS
from harness.comparison.curves import AXES, own_compute, parents_compute
from harness.comparison.declaration import Declaration, flatten, within
from harness.comparison.judge import baseline_side, card_interval, gain, student_values
from harness.comparison.results import Result, Results
from harness.comparison.statistics import intervals_apart, mean_interval, sign_flip_p, t_test_p
from harness.config.metrics import METRICS, STATIC_COLLAPSE_ALARM

Table = list[dict[str, Any]]


def paired_table(declaration: Declaration, results: Results) -> Table:
    """Per declared metric: every arm with all its seeds, and the gain of the first arm of each pair over the second."""
    confidence, table = declaration.analysis.confidence, []
    for metric, use in declaration.metrics.items():
        values = {arm: student_values(seeds, metric) for arm, seeds in results.arms.items()}
        if not all(values.values()):
            continue
        row: dict[str, Any] = {"metric": metric, "role": use.role, "arms": {}, "pairs": []}
        for arm, seeded in values.items():
            interval = mean_interval(list(seeded.values()), confidence)
            row["arms"][arm] = {**attrs.asdict(interval), "seeds": {str(s): v for s, v in seeded.items()}}
        for a, b in combinations(values, 2):
            gains = [gain(metric, values[a][s], values[b][s]) for s in sorted(values[a]) if s in values[b]]
            interval = mean_interval(gains, confidence)
            row["pairs"].append(
                {
                    "arms": [a, b],
                    "gain": attrs.asdict(interval),
                    "gains": gains,
                    "p_t": t_test_p(gains),
                    "p_sign_flip": sign_flip_p(gains),
                    "smallest_effect": declaration.smallest_effect(metric),
                }
            )
        table.append(row)
    return table


def models_table(declaration: Declaration, results: Results) -> Table:
    """Every model side by side: floor, ceiling, each teacher full and cut, causal SFT, then each arm's init and
    student.
    """
    rows = []
    for name in REQUIRED_MODELS["teacher"]:
        of_teachers = [_teacher_row(declaration, results, name, target) for target in results.distinct_teachers]
        rows += [_merged(of_teachers)] if name in REAL else of_teachers
    if results.causal_sft:
        rows += [
            _model_row(declaration, name, "causal_sft", results.causal_sft) for name in REQUIRED_MODELS["causal_sft"]
        ]
    for arm, seeds in results.arms.items():
        for name in REQUIRED_MODELS["run"]:
            row = _model_row(declaration, name, arm, seeds)
            rows.append({**row, "arm": arm, "label": _arm_label(declaration, arm, name)})
    return rows


def _teacher_row(declaration: Declaration, results: Results, name: str, target: str) -> dict[str, Any]:
    row = _model_row(declaration, name, target, {0: results.distinct_teachers[target]}, single=True)
    if name in REAL or len(results.distinct_teachers) == 1:
        return row
    arms = ", ".join(declaration.arms[arm].label for arm in results.taught_by(target))
    return {**row, "label": f"{row['label']} ({arms})"}


def _merged(rows: Table) -> dict[str, Any]:
    """Real clips are the same on every teacher's card: the first one's row, with what only another card measured."""
    metrics = {name: interval for row in reversed(rows) for name, interval in row["metrics"].items()}
    return {**rows[0], "metrics": metrics}


def level_metric(primary: str, metrics: Iterable[str], models: Iterable[Mapping[str, Any]]) -> str:
    """What students and baselines are compared on: the primary metric, or the first that a baseline has as well (a
    student's distance from its own teacher is no property of the teacher).
    """
    baselines = [row for row in models if row["model"] != "student"]
    return next((m for m in (primary, *metrics) if any(m in row["metrics"] for row in baselines)), primary)


def _arm_label(declaration: Declaration, arm: str, model: str) -> str:
    label = declaration.arms[arm].label
    return label if model == "student" else f"{label}: its init, no distillation"


def _model_row(
    declaration: Declaration, name: str, source: str, seeds: Mapping[int, Result], single: bool = False
) -> dict[str, Any]:
    first = next(iter(seeds.values()))
    card = first.cards["models"][name]
    metrics: dict[str, Any] = {}
    for metric in declaration.metrics:
        if single:
            interval = card_interval(first, name, metric)
        else:
            values = list(student_values(seeds, metric, name).values())
            interval = mean_interval(values, declaration.analysis.confidence) if values else None
        if interval is not None:
            metrics[metric] = attrs.asdict(interval)
    return {
        "model": name,
        "source": source,
        "label": card["label"],
        "sampler": card.get("sampler", {}),
        "denoiser_forwards_per_video": card.get("denoiser_forwards_per_video"),
        "seconds_per_video": first.timing.get(name, {}).get("seconds_per_video"),
        "interval_of": "evaluation" if single else "seeds",
        "n": 1 if single else len(seeds),
        "metrics": metrics,
    }


def against_baselines(declaration: Declaration, results: Results, metric: str) -> Table:
    """Each student against each baseline on a metric: gain over seeds, and whether intervals are apart."""
    confidence, table = declaration.analysis.confidence, []
    trained = REQUIRED_MODELS["causal_sft"] if results.causal_sft else ()
    baselines = (*REQUIRED_MODELS["teacher"], *trained, "init")
    for arm, seeds in results.arms.items():
        student = student_values(seeds, metric)
        if not student:
            continue
        own = mean_interval(list(student.values()), confidence)
        for model in baselines:
            side = baseline_side(results, arm, model, metric, confidence)
            if side is None:
                continue
            gains = [gain(metric, student[seed], side.values[seed]) for seed in sorted(student)]
            table.append(
                {
                    "arm": arm,
                    "model": model,
                    "label": side.label,
                    "gain": attrs.asdict(mean_interval(gains, confidence)),
                    "relative": gain(metric, own.value, side.interval.value) / abs(side.interval.value or 1.0),
                    "apart": intervals_apart(own, side.interval),
                }
            )
    return table


def guardrails(declaration: Declaration, results: Results) -> Table:
    """Whether each arm's mean stays inside each guardrail's bounds."""
    table = []
    for metric, use in declaration.metrics.items():
        if use.role != "guardrail":
            continue
        for arm, seeds in results.arms.items():
            values = list(student_values(seeds, metric).values())
            if values:
                mean = mean_interval(values, declaration.analysis.confidence)
                kept = (use.min is None or mean.value >= use.min) and (use.max is None or mean.value <= use.max)
                table.append(
                    {"metric": metric, "arm": arm, "min": use.min, "max": use.max, "kept": kept, **attrs.asdict(mean)}
                )
    return table


def by_frame(results: Results) -> dict[str, Any]:
    """Quality by frame index: metric → models → one list per seed (or teacher). Only metrics that every arm's card
    has.
    """
    shared = set(METRICS)
    for seeds in results.arms.values():
        for result in seeds.values():
            shared &= set(result.cards["models"]["student"].get("by_frame", {}))
    table: dict[str, Any] = {}
    for metric in (name for name in METRICS if name in shared):
        models: dict[str, Any] = {}
        for name in ("real", "teacher"):
            cards = [teacher.cards["models"][name] for teacher in results.distinct_teachers.values()]
            series = [card["by_frame"][metric] for card in cards if card.get("by_frame", {}).get(metric)]
            if series:
                models[name] = series[:1] if name == "real" else series
        for arm, seeds in results.arms.items():
            models[arm] = [result.cards["models"]["student"]["by_frame"][metric] for result in seeds.values()]
        table[metric] = models
    return table


def settings(declaration: Declaration, results: Results) -> dict[str, Any]:
    """What differs between the arms' resolved configurations, and what they share. `implied` are the differences that
    the varied settings bring with them; `undeclared` those that nothing declared explains.
    """
    configs = {
        arm: {k: v for k, v in flatten(next(iter(seeds.values())).manifest["config"]).items() if k != "seed"}
        for arm, seeds in results.arms.items()
    }
    keys = sorted(set().union(*configs.values()))
    values = {key: {arm: config.get(key) for arm, config in configs.items()} for key in keys}
    differ = {key: of for key, of in values.items() if any(v != next(iter(of.values())) for v in of.values())}
    shared = {key: next(iter(of.values())) for key, of in values.items() if key not in differ}
    implied = [key for key in results.implied if key in differ]
    undeclared = sorted(set(differ) - set(declaration.varied) - set(implied))
    return {"differ": differ, "shared": shared, "undeclared": undeclared, **({"implied": implied} if implied else {})}


def budget(declaration: Declaration, results: Results) -> dict[str, Any]:
    """What was asked and what was measured per run, and whether the declared unit came out equal."""
    runs = [
        _budget_row(arm, seed, r, results.shared(arm))
        for arm, seeds in results.arms.items()
        for seed, r in seeds.items()
    ]
    unit, tolerance = declaration.budget.unit, declaration.budget.tolerance
    values = [run[unit] for run in runs]
    equal = within(values, tolerance)
    found = {"unit": unit, "tolerance": tolerance, "equal": equal, "low": min(values), "high": max(values)}
    teachers = _teachers_cost(results)
    return {**found, "runs": runs, **({"teachers": teachers} if len(teachers) > 1 else {})}


def _teachers_cost(results: Results) -> Table:
    """What each teacher's own training cost, which no arm's compute includes."""
    return [
        {
            "target": target,
            "arms": results.taught_by(target),
            "after": [parent["target"] for parent in teacher.manifest.get("parents", [])],
            **own_compute(teacher),
        }
        for target, teacher in results.distinct_teachers.items()
    ]


def _budget_row(arm: str, seed: int, result: Result, shared: Collection[str]) -> dict[str, Any]:
    manifest, own, before = result.manifest, own_compute(result), parents_compute(result, shared)
    total = {axis: own[axis] + before[axis] for axis in AXES}
    return {
        "arm": arm,
        "seed": seed,
        "generator_updates": manifest["updates"]["generator"],
        "critic_updates": manifest["updates"].get("critic", 0),
        "denoiser_forwards": manifest["compute"].get("denoiser_forwards", 0),
        **total,
        **{f"{axis}_before": before[axis] for axis in AXES},
        "wall_seconds": manifest.get("wall_seconds"),
        "peak_memory_mib": manifest.get("peak_memory_mib"),
        "best_update": (manifest.get("best") or {}).get("update"),
    }


def static_collapse(results: Results) -> Table:
    """Where the monitor watched motion against the own teacher's: per run its number of readings, the lowest one, and
    those at which the alarm fired.
    """
    table = []
    for arm, seeds in results.arms.items():
        for seed, result in seeds.items():
            readings = [
                {"update": int(row["update"]), "value": row["static_collapse"]}
                for row in result.quality
                if "update" in row and "static_collapse" in row
            ]
            if readings:
                lowest = min(reading["value"] for reading in readings)
                fired = [reading for reading in readings if reading["value"] < STATIC_COLLAPSE_ALARM]
                table.append({"arm": arm, "seed": seed, "readings": len(readings), "lowest": lowest, "fired": fired})
    return table


def protocol(results: Results) -> dict[str, Any]:
    """The evaluation's protocol; an entry that differs between teachers has a value under each one's target."""
    cards = {target: teacher.cards["protocol"] for target, teacher in results.distinct_teachers.items()}
    first = next(iter(cards.values()))
    keys = dict.fromkeys(key for card in cards.values() for key in card)
    return {
        key: first[key]
        if all(key in card and card[key] == first.get(key) for card in cards.values())
        else {target: card.get(key) for target, card in cards.items()}
        for key in keys
    }


def provenance(results: Results) -> Table:
    """Where every number comes from: one row per result, then what is known of runs that only their children name."""
    rows, named = [], {}
    for result in results:
        manifest = result.manifest
        git = manifest.get("git") or {}
        rows.append(
            {
                "target": result.target,
                "fingerprint": manifest.get("fingerprint"),
                "commit": git.get("commit"),
                "dirty": git.get("dirty"),
                **{key: manifest.get(key) for key in ("command", "device", "threads", "world_size", "lock_sha256")},
                **{key: manifest.get(key) for key in ("inputs", "packages", "wall_seconds", "started", "finished")},
                "parents": [parent["target"] for parent in manifest.get("parents", [])],
                "compute": manifest.get("compute"),
            }
        )
        named |= {parent["target"]: parent for parent in manifest.get("parents", [])}
    known = {row["target"] for row in rows}
    empty = dict.fromkeys(rows[0])
    for target in sorted(named.keys() - known):
        parent = named[target]
        own = {key: parent.get(key) for key in ("fingerprint", "compute")}
        rows.append({**empty, "target": target, **own, "parents": []})
    return rows
