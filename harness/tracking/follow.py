"""Reading a run's tables while they grow."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

INTERVAL = 5.0  # seconds between looks at the files
TABLES = {"history.csv": ("", "batch"), "quality.csv": ("quality/", "quality/update")}  # prefix, axis


def new_rows(path: Path, seen: int) -> Iterator[dict[str, float | str]]:
    """Rows of a table after the first `seen`; a line that is being written is left for the next look."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    for number, row in enumerate(rows):
        if number >= seen:
            yield {name: _value(cell) for name, cell in row.items() if cell}


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def follow(
    folder: Path,
    run: Any,
    ended: threading.Event,
    clips: Callable[[int], list[Any]] = lambda row: [],
    interval: float = INTERVAL,
) -> dict[int, dict[str, Any]]:
    """Log rows as they appear, until the run has ended; returns step → what was logged. `run` is a wandb run.

    The step is the batch: W&B drops the rows of a continued run that it has already. `clips` gives the media of a row
    of `quality.csv`.
    """
    seen = dict.fromkeys(TABLES, 0)
    logged: dict[int, dict[str, Any]] = {}
    for prefix, axis in TABLES.values():
        run.define_metric(axis)
        run.define_metric(f"{prefix}*", step_metric=axis)
    while True:
        last = ended.is_set()
        rows: list[tuple[int, dict[str, Any]]] = []
        for table, (prefix, _) in TABLES.items():
            for row in new_rows(folder / table, seen[table]):
                content: dict[str, Any] = {f"{prefix}{name}": value for name, value in row.items()}
                if table == "quality.csv" and (media := clips(seen[table])):
                    content["quality/samples"] = media
                rows.append((int(float(row["batch"])), content))
                seen[table] += 1
        for batch, row in sorted(rows, key=lambda item: item[0]):
            run.log(row, step=batch)
            logged.setdefault(batch, {}).update(row)
        if last:
            return logged
        ended.wait(interval)
