"""`python -m harness compare EXPERIMENT`: from `results/` to `comparisons/<experiment>/`, all that the report reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.comparison import tables, views
from harness.comparison.cards import REAL
from harness.comparison.curves import AXES, common_budget, curve_of, curve_table
from harness.comparison.declaration import Baselines, Declaration, load_declaration
from harness.comparison.judge import judge, strongest_baseline
from harness.comparison.long_video import long_video
from harness.comparison.results import Result, Results, read_results
from harness.config.metrics import METRICS
from harness.config.structure import to_dict
from harness.errors import HarnessError
from harness.io import atomic_write_bytes, atomic_write_text, read_json, write_json
from harness.tracking.background import publish
from harness.tracking.requests import compare_request

REPORT = Path("reports/index.html")
CLIP_ROWS = 4
COMPARISON_KEYS = ("declaration", "hypotheses", "models", "fingerprints", "paired", "clips")  # of a whole one
MARKS = {"supported": "+", "not supported": "-", "undecided": "?"}


def main(experiment: str, root: str | Path = ".") -> Path:
    """Compare the arms of one experiment and write its folder under `comparisons/`; returns the folder.

    Raises:
        HarnessError: if the declaration is wrong, results are missing, or they do not compare.
    """
    root = Path(root)
    declaration = load_declaration(experiment, root)
    results = read_results(declaration, root)
    folder = root / "comparisons" / experiment
    comparison, curves = compare(declaration, results)
    metric = tables.level_metric(declaration.primary, declaration.metrics, comparison["models"])
    columns = clip_columns(declaration, results, metric)
    long_columns = long_clip_columns(declaration, results, comparison["long"]) if "long" in comparison else []
    copied = _copy_clips([*columns, *long_columns], folder / "clips")
    comparison["clips"] = copied[: len(columns)]
    if "long" in comparison:
        comparison["long"]["shown"] = copied[len(columns) :]
    comparison = rounded(comparison)
    atomic_write_text(folder / "curves.csv", curves)
    write_json(folder / "comparison.json", comparison)
    publish(lambda: compare_request(experiment, root), root)
    return folder


def compare(declaration: Declaration, results: Results) -> tuple[dict[str, Any], str]:
    """The whole comparison as plain data, and the curves as CSV text."""
    curves = [curve_of(results, arm, seed) for arm, seeds in results.arms.items() for seed in seeds]
    budget = tables.budget(declaration, results)
    parity = None
    if not budget["equal"]:
        parity = f"budgets differ: {budget['unit']} from {budget['low']:g} to {budget['high']:g}"
    limits = tables.guardrails(declaration, results)
    models = tables.models_table(declaration, results)
    level = tables.level_metric(declaration.primary, declaration.metrics, models)
    collapse = tables.static_collapse(results)
    long = long_video(results)
    comparison = {
        "schema": 1,
        "experiment": declaration.name,
        "declaration": stated(declaration),
        "primary": declaration.primary,
        "arms": [{"name": name, **to_dict(arm)} for name, arm in declaration.arms.items()],
        "metrics": [
            {"name": name, "role": use.role, **to_dict(METRICS[name])} for name, use in declaration.metrics.items()
        ],
        "protocol": tables.protocol(results),
        "fingerprints": {
            arm: {str(seed): r.manifest.get("fingerprint") for seed, r in seeds.items()}
            for arm, seeds in results.arms.items()
        },
        "hypotheses": with_guardrails(judge(declaration, results, curves, parity), limits),
        "common_budget": {axis: common_budget(curves, axis) for axis in AXES},
        "paired": tables.paired_table(declaration, results),
        "models": models,
        "against": tables.against_baselines(declaration, results, level),
        "guardrails": limits,
        "by_frame": tables.by_frame(results),
        "settings": tables.settings(declaration, results),
        "budget": budget,
        "provenance": tables.provenance(results),
        **({"static_collapse": collapse} if collapse else {}),
        **({"long": long} if long else {}),
    }
    return comparison, curve_table(curves, declaration.metrics)


def stated(declaration: Declaration) -> dict[str, Any]:
    """The declaration as data; the usual baselines go without saying, as in its file."""
    content = to_dict(declaration)
    return {k: v for k, v in content.items() if k != "baselines" or declaration.baselines != Baselines()}


def with_guardrails(hypotheses: list[dict[str, Any]], limits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say beside each verdict which guardrails its arm breaks: they are part of the claim."""
    marked = []
    for h in hypotheses:
        broken = [row["metric"] for row in limits if row["arm"] == h["arm"] and not row["kept"]]
        labels = ", ".join(METRICS[metric].label for metric in broken)
        marked.append(
            {
                **h,
                "broken": broken,
                "summary": f"{h['summary']} (guardrail broken: {labels})" if broken else h["summary"],
            }
        )
    return marked


def rounded(value: Any) -> Any:
    """Every float to ten significant digits: below that, processors differ, and the files should not."""
    match value:
        case float():
            return float(f"{value:.10g}")
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
    return value


def clip_columns(declaration: Declaration, results: Results, metric: str) -> list[dict[str, Any]]:
    """The given images, if there are any, and the models shown side by side, always of the first declared seed: nobody
    picks a lucky one. The strongest baselines are shown, by `metric`.
    """
    first, confidence = declaration.seeds[0], declaration.analysis.confidence
    arm = next(iter(declaration.arms))
    columns = [*_given_column(results, first), _clip_column("real", results.teachers[arm], "real")]
    several = len(results.distinct_teachers) > 1
    for target, teacher in results.distinct_teachers.items():
        taught = results.taught_by(target)
        end = f"-{taught[0]}" if several else ""  # no arm has a hyphen in its name
        of = f" ({', '.join(declaration.arms[name].label for name in taught)})" if several else ""
        columns.append(_clip_column(f"teacher{end}", teacher, "teacher", after=of))
        side = strongest_baseline(results, taught[0], "cut_teacher", metric, confidence)
        if side is not None:
            columns.append(_clip_column(f"cut_teacher{end}", teacher, side.model, after=of))
    side = strongest_baseline(results, arm, "causal_sft", metric, confidence)
    if side is not None:
        columns.append(_clip_column("causal_sft", results.causal_sft[first], side.model))
    for name, seeds in results.arms.items():
        columns.append(_clip_column(name, seeds[first], "student", declaration.arms[name].label))
    return columns


def long_clip_columns(declaration: Declaration, results: Results, long: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The long clips of the first declared seed: what the arms start from, once where it goes on alike in all of them,
    then every arm's student.
    """
    inits, students = [], []
    for arm in long["segments"]["student"]:
        result, label = results.arms[arm][declaration.seeds[0]], declaration.arms[arm].label
        students.append(_long_column(arm, result, "student", label))
        if not long["common_init"]:
            inits.append(_long_column(f"init-{arm}", result, "init", f"{label}: its init"))
        elif not inits:
            inits.append(_long_column("init", result, "init", "What all start from"))
    return [column for column in (*inits, *students) if column["sources"]]


def _long_column(name: str, result: Result, model: str, label: str) -> dict[str, Any]:
    block = result.long(model) or {}
    column = _column(f"long-{name}", label, result.cards.get("prompts", [])[:CLIP_ROWS])  # no arm has a hyphen
    return {**column, "sources": [result.folder / clip for clip in block.get("clips_files", [])[:CLIP_ROWS]]}


def _given_column(results: Results, seed: int) -> list[dict[str, Any]]:
    """A column of the images that clips were given, as the first card tells that has them; none in text to video."""
    for result in [seeds[seed] for seeds in results.arms.values()]:
        if result.given:
            prompts = result.cards.get("prompts", [])[:CLIP_ROWS]
            return [{**_column("given", "Given image", prompts), "sources": result.given[:CLIP_ROWS]}]
    return []


def _clip_column(name: str, result: Result, model: str, label: str | None = None, after: str = "") -> dict[str, Any]:
    card = result.cards["models"][model]
    column = _column(name, label or f"{card['label']}{after}", result.cards.get("prompts", [])[:CLIP_ROWS])
    sources = [result.folder / clip for clip in card.get("clips", [])[:CLIP_ROWS]]
    given = {"given": True} if result.given and model not in REAL else {}
    return {**column, **given, "forwards": card.get("denoiser_forwards_per_video"), "sources": sources}


def _column(name: str, label: str, prompts: list[str]) -> dict[str, Any]:
    return {"name": name, "label": label, "forwards": None, "prompts": prompts}


def _copy_clips(columns: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Copy the clips of all columns into one folder, which is made anew, and say which file is whose."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copied = []
    for column in columns:
        files = []
        for i, source in enumerate(column["sources"]):
            if not source.is_file():
                raise HarnessError(f"{source}: the card names this clip, but it is missing; evaluate the target again")
            name = f"{column['name']}_{i}{source.suffix}"
            atomic_write_bytes(folder / name, source.read_bytes())
            files.append(f"clips/{name}")
        copied.append({**{k: v for k, v in column.items() if k != "sources"}, "files": files})
    return copied


def load_comparisons(root: str | Path = ".") -> dict[str, dict[str, Any]]:
    """All comparisons by name of experiment, in order.

    Raises:
        HarnessError: if there is none, or one cannot be read.
    """
    files = sorted((Path(root) / "comparisons").glob("*/comparison.json"))
    if not files:
        raise HarnessError(
            f"{Path(root) / 'comparisons'}: no comparison yet; run `python -m harness compare EXPERIMENT`"
        )
    return {file.parent.name: read_json(file, keys=COMPARISON_KEYS) for file in files}


def verdict_lines(comparisons: dict[str, dict[str, Any]]) -> list[str]:
    """What all comparisons found, for the terminal."""
    lines: list[str] = []
    for name, comparison in comparisons.items():
        lines += [f"{name}: {comparison['declaration']['question']}"]
        for h in comparison["hypotheses"]:
            lines.append(f"  [{MARKS[h['on']['updates']['outcome']]}] {h['statement']}")
            lines.append(f"      {h['summary']}: {_gain_in_words(h)}")
        lines += [f"  [!] {line}" for line in views.collapse_lines(comparison)]
        lines.append("")
    return lines


def _gain_in_words(h: dict[str, Any]) -> str:
    on = h["on"]["updates"]
    label = METRICS[h["metric"]].label
    if on["gain"] is None:
        return on["reason"]
    g = on["gain"]
    span = "" if g["low"] is None else f" [{g['low']:.3g}, {g['high']:.3g}]"
    side = "better" if g["value"] >= 0 else "worse"
    return (
        f"{label} {side} than {h['against_label']} by {abs(g['value']):.3g}, interval of the gain{span}, n = {g['n']}"
    )


def print_verdicts(root: str | Path = ".") -> None:
    """Print every verdict and the path of the report."""
    print("\n".join(verdict_lines(load_comparisons(root))))
    print(f"Report: {(Path(root) / REPORT).resolve()}")
