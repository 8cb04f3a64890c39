"""The evaluation card: metrics with intervals, how the model was sampled, what it cost, and the protocol that makes
cards comparable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict

from harness.config.metrics import METRICS
from harness.config.schema import Gate
from harness.errors import HarnessError
from harness.evaluation.bench import Outcome
from harness.evaluation.intervals import Estimate, bootstrap_mean, pooled
from harness.evaluation.long_clips import LongOutcome
from harness.evaluation.media import animation, enlarge, save_video, scale_for
from harness.evaluation.own_teacher import Metrics, fvd_gap, static_collapse
from harness.evaluation.panel import ClipSet, by_frame, measure_card
from harness.evaluation.samplers import Sampler
from harness.evaluation.segments import Segmented
from harness.io import atomic_write_bytes

SCHEMA = 1


def rounded(estimate: Estimate) -> dict[str, float]:
    """Six significant digits: below any interval, and equal on machines whose last bits differ."""
    return {name: float(f"{value:.6g}") for name, value in asdict(estimate).items()}


def metrics_block(outcomes: list[Outcome], reference: ClipSet) -> dict[str, dict[str, float]]:
    """Every metric, averaged over the repeats (independent noise)."""
    cards = [measure_card(outcome.clips, reference) for outcome in outcomes]
    names = [name for name in METRICS if all(name in card for card in cards)]
    return {name: rounded(pooled([card[name] for card in cards])) for name in names}


def frames_block(outcomes: list[Outcome], reference: ClipSet) -> dict[str, list[float]]:
    """Quality by frame index, averaged over the repeats."""
    curves = [by_frame(outcome.clips, reference) for outcome in outcomes]
    return {name: np.mean([c[name] for c in curves], axis=0).round(6).tolist() for name in curves[0]}


def model_block(
    label: str, outcomes: list[Outcome], reference: ClipSet, sampler: Sampler | None = None
) -> dict[str, Any]:
    """One model's entry, without what a clock says: a repeated evaluation gives the same. Real clips have no
    `sampler`.
    """
    block: dict[str, Any] = {
        "label": label,
        "sampler": sampler.describe() if sampler else {},
        "metrics": metrics_block(outcomes, reference),
        "by_frame": frames_block(outcomes, reference),
    }
    if sampler is None:
        return block
    clips = sum(o.cost.clips for o in outcomes)
    return block | {"denoiser_forwards_per_video": round(sum(o.cost.forwards for o in outcomes) / clips, 6)}


def add_long(model: dict[str, Any], outcome: LongOutcome, floor: Segmented | None) -> None:
    """Add a long evaluation to a model's entry: the metrics, and under `long` the curves. `floor`: the segments of real
    clips, where these can be continued.
    """
    segments, switched = outcome.segments, outcome.switched
    length = segments.spans[0][1]
    metrics = segments.estimates()
    block: dict[str, Any] = {
        "frames": outcome.frames,
        "clips": len(segments.clips[0]),
        "segment_frames": length,
        "segments": [
            {"start": start, "metrics": plain(segments.values(i))}
            | ({} if floor is None else {"real": plain(floor.values(i))})
            for i, (start, _) in enumerate(segments.spans)
        ],
        "by_frame": segments.by_frame(),
        "cache_mib": [float(f"{mib:.6g}") for mib in outcome.cache_mib],
    }
    if switched is not None:
        metrics |= {name: bootstrap_mean(values) for name, values in switched.per_clip(length).items()}
        block["switch"] = {
            "at": outcome.frames - switched.after,
            "frame": list(range(switched.after)),
            "obeyed": switched.obeyed().mean(0).round(6).tolist(),
            "delay_cap": switched.after,
        }
    largest = max(block["cache_mib"])
    metrics["long_cache"] = Estimate(largest, largest, largest)
    model["metrics"] |= {name: rounded(metrics[name]) for name in METRICS if name in metrics}
    model["long"] = block


def plain(values: dict[str, float]) -> dict[str, float]:
    """Six significant digits, as `rounded`."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def add_against_teacher(models: dict[str, dict[str, Any]], teacher: Metrics) -> None:
    """Add to the entries of a card what is measured against the metrics of the own teacher."""
    for name, model in models.items():
        metrics = model["metrics"]
        found = {"static_collapse": static_collapse(metrics, teacher)}
        if name == "student" and "init" in models:
            found["fvd_gap"] = fvd_gap(metrics, models["init"]["metrics"], teacher)
        metrics |= {metric: rounded(estimate) for metric, estimate in found.items() if estimate is not None}


def timing_block(outcomes: list[Outcome], encoding: dict[str, float]) -> dict[str, Any]:
    """Measured seconds per video: in all, and by part. `encoding` is what encoding one prompt took, and one image."""
    clips = sum(o.cost.clips for o in outcomes)
    seconds = {
        **encoding,
        "denoiser": sum(o.cost.denoiser_seconds for o in outcomes) / clips,
        "vae": sum(o.cost.vae_seconds for o in outcomes) / clips,
    }
    return {
        "seconds_per_video": float(f"{sum(seconds.values()):.4g}"),
        "seconds": {name: float(f"{value:.4g}") for name, value in seconds.items()},
    }


def write_clips(folder: Path, name: str, shown: list[np.ndarray], fps: float) -> list[str]:
    """Write the shown clips, enlarged, as `clips/<name>_<i>.webp` in `folder`; returns their paths relative to it."""
    paths = []
    for i, video in enumerate(shown):
        path = f"clips/{name}_{i}.webp"
        factor = scale_for(*video.shape[1:3])
        atomic_write_bytes(folder / path, animation(enlarge(video, factor), fps, "webp"))
        paths.append(path)
    return paths


def write_given(folder: Path, images: list[np.ndarray]) -> list[str]:
    """Write the images that the shown clips were given, uint8 `[H, W, 3]`, enlarged as the clips are, as
    `clips/given_<i>.png` in `folder`; returns their paths relative to it.
    """
    paths = []
    for i, image in enumerate(images):
        path = f"clips/given_{i}.png"
        save_video(folder / path, enlarge(image[None], scale_for(*image.shape[:2])), fps=1)
        paths.append(path)
    return paths


def check_gate(model: dict[str, Any], gate: Gate, card: Path) -> None:
    """Raise HarnessError with the numbers when a teacher's entry misses the gate."""
    missed = []
    for name, wanted in asdict(gate).items():
        if wanted <= 0:
            continue
        if name not in model["metrics"]:
            missed.append(f"{name} cannot be measured on these clips: set evaluation.gate.{name} to 0 in params.yaml")
            continue
        found = model["metrics"][name]
        if found["value"] < wanted:
            missed.append(
                f"{name} {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}], at least {wanted:g} wanted"
            )
    if missed:
        raise HarnessError(
            f"{card}: the teacher misses its quality gate: {'; '.join(missed)}. A student of a poor teacher is worse "
            "still: train the teacher longer (run.sft.updates in params.yaml), or lower evaluation.gate on purpose."
        )
