"""Small made-up runs."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

import numpy as np

from harness.io import write_json
from harness.reference.signals import Series


def series(values, start=1, step=1):
    """A signal with a value for each update."""
    values = np.asarray(values, dtype=float)
    clock = np.arange(start, start + step * len(values), step)
    return Series(clock, clock.copy(), values)


CONFIG = {"method": "dmd", "seed": 0, "dmd": {"shift": 3.0, "cfg_scale": 2.0}, "sft": {"updates": 4}}


def write_run(folder, *, seed=0, updates=40, change: Callable[[dict], None] | None = None, manifest=True, **config):
    """A run of alternating updates whose loss falls; `change` edits a row before it is written."""
    rng = np.random.default_rng(seed)
    rows = list(_rows(rng, updates))
    for row in rows:
        if change is not None:
            change(row)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with open(folder / "quality.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["batch", "update", "monitor_seconds", "fvd"])
        writer.writerows([2 * n, n, 0.1, 100.0 - n + (n > 0) * float(rng.normal())] for n in range(0, updates + 1, 10))
    if manifest:
        write_json(folder / "manifest.json", manifest_of(seed, **config))
    return folder


def _rows(rng, updates) -> Iterator[dict]:
    for n in range(1, updates + 1):
        common = {"lr": 1e-3, "seconds": float(rng.random())}
        loss = float(0.5 + 0.05 * rng.normal())
        yield (
            {"batch": 2 * n - 1, "update": n - 1, "critic_update": n, "phase": "critic", "loss": loss}
            | common
            | {
                "critic_loss": loss,
                "lag": "",
            }
        )
        lag = float(0.4 + 0.0075 * n + 0.05 * rng.normal())
        loss = float(2.0 / (1 + n) + 0.05 * rng.normal())
        yield (
            {"batch": 2 * n, "update": n, "critic_update": n, "phase": "generator", "loss": loss}
            | common
            | {
                "critic_loss": "",
                "lag": lag,
            }
        )


def manifest_of(seed=0, **config):
    """What the manifest of such a run says."""
    return {
        "config": {**CONFIG, "seed": seed, **config},
        "inputs": {"data": "d" * 64},
        "git": {"commit": None, "dirty": False, "diff_sha256": None},
        "packages": {"torch": "2.7.0"},
        "device": "a processor",
        "world_size": 1,
    }
