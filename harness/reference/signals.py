"""What a run's tables say, signal by signal: losses, gradient norms, critic lag, quality on fixed prompts."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from harness.config.metrics import METRICS
from harness.errors import HarnessError
from harness.io import read_json

HISTORY, QUALITY, MANIFEST = "history.csv", "quality.csv", "manifest.json"
NOT_SIGNALS = frozenset(
    # counters, and what says how fast the machine was
    ("batch", "update", "critic_update", "phase", "seconds", "teraflops", "device_seconds", "monitor_seconds")
)

Cells = dict[str, str]


@frozen(eq=False)
class Series:
    """One signal of one run, in the order of training; the three arrays have the same length.

    `clock` counts the updates of the network that the signal belongs to; `value` is NaN or infinite where training was.
    """

    clock: NDArray[np.int64]
    batch: NDArray[np.int64]
    value: NDArray[np.float64]

    def at(self, clock: NDArray[np.int64]) -> Series:
        """The rows of some clock values; those that the run has."""
        keep = np.isin(self.clock, clock)
        return Series(self.clock[keep], self.batch[keep], self.value[keep])


@frozen(kw_only=True, eq=False)
class Run:
    """A run's signals by name (`generator/loss`, `critic/grad_norm`, `quality/fvd`) and its manifest.

    The manifest is empty while the run is not finished.
    """

    name: str
    folder: Path
    signals: dict[str, Series]
    manifest: dict[str, Any] = field(factory=dict)

    @property
    def seed(self) -> int | None:
        """The seed of its noise and of the order of its data."""
        return self.manifest.get("config", {}).get("seed")


def read_run(folder: Path, name: str) -> Run:
    """Read `history.csv`, and `quality.csv` and `manifest.json` where there are any.

    Raises:
        HarnessError: there is no history, or a file is damaged.
    """
    history = _rows(folder / HISTORY)
    quality = _rows(folder / QUALITY) if (folder / QUALITY).is_file() else []
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    if not isinstance(manifest, dict):
        raise HarnessError(f"{folder / MANIFEST}: expected a mapping; train the run again")
    try:
        signals = signals_of(history, quality)
    except (KeyError, ValueError) as error:
        raise HarnessError(f"{folder}: {HISTORY} or {QUALITY} is damaged ({error}); train the run again") from error
    return Run(name=name, folder=folder, signals=signals, manifest=manifest)


def signals_of(history: Iterable[Cells], quality: Iterable[Cells] = ()) -> dict[str, Series]:
    """Split the rows by the network that they updated; every numeric column with a value in them is a signal.

    Raises:
        KeyError, ValueError: a column that counts is missing or holds no number.
    """
    signals: dict[str, Series] = {}
    history = list(history)
    for role, counter in (("critic", "critic_update"), ("generator", "update")):
        signals |= _columns([row for row in history if row["phase"] == role], role, counter)
    return signals | _columns(list(quality), "quality", "update")


def _columns(rows: list[Cells], role: str, counter: str) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for name in rows[0] if rows else ():
        filled = [row for row in rows if row[name] not in ("", None)]
        if name in NOT_SIGNALS or not filled:
            continue
        clock, batch = (np.array([int(row[key]) for row in filled], dtype=np.int64) for key in (counter, "batch"))
        found[f"{role}/{name}"] = Series(clock, batch, np.array([float(row[name]) for row in filled]))
    return found


def role_of(signal: str) -> str:
    """`generator`, `critic` or `quality`."""
    return signal.partition("/")[0]


def worth_an_alarm(signal: str) -> float:
    """The smallest difference of a signal that counts: for metrics, one that is worth a claim; else any."""
    metric = METRICS.get(signal.partition("/")[2]) if role_of(signal) == "quality" else None
    return float(metric.smallest_effect) if metric is not None and metric.smallest_effect is not None else 0.0


def without_repeated_loss(signals: Mapping[str, list[Series]]) -> dict[str, list[Series]]:
    """Signals without a `loss` that another one of its network repeats in every run: the critic's is `critic_loss`."""
    return {
        name: series
        for name, series in signals.items()
        if not name.endswith("/loss")
        or not any(
            other != name and role_of(other) == role_of(name) and _same(series, signals[other]) for other in signals
        )
    }


def _same(a: list[Series], b: list[Series]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.clock, y.clock) and np.array_equal(x.value, y.value, equal_nan=True) for x, y in zip(a, b)
    )


def _rows(path: Path) -> list[Cells]:
    """The whole rows of a table; a last row that is being written is left out.

    Raises:
        HarnessError: the file is missing, empty or not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: no such file; expected the folder of a run (results/TARGET, runs/NAME)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error})") from error
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    if not rows:
        raise HarnessError(f"{path}: has no rows yet")
    return [{key: value or "" for key, value in row.items() if key is not None} for row in rows]
