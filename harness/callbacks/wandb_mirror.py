"""Weights & Biases as a mirror: another process follows the run's own files and logs them.

The history is the truth. Training neither imports wandb nor waits for it, and nothing that goes wrong there can stop it
or lose a row. Offline unless `WANDB_MODE` or `WANDB_API_KEY` say otherwise; `WANDB_MODE=disabled` mirrors nothing.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from harness.io import read_json, write_json

REQUEST = "tracking.json"
LOG = "tracking.log"
PROJECT = "causal-video-harness"
INTERVAL = 5.0  # seconds between looks at the files
PATIENCE = 10.0  # seconds that a finished run waits for its mirror; the mirror goes on alone after that
TABLES = {"history.csv": ("", "batch"), "quality.csv": ("quality/", "quality/update")}  # prefix, axis
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def mode(environment: Mapping[str, str]) -> str:
    """W&B's mode: as asked for, else online where there is a key, else offline."""
    return environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_API_KEY") else "offline")


def run_settings(
    *, fingerprint: str, group: str, name: str, job_type: str, config: Mapping[str, Any], tags: list[str]
) -> dict[str, Any]:
    """Arguments of `wandb.init`. The id is stable, so that an interrupted run goes on as the same one."""
    return {
        "project": PROJECT,
        "id": f"{fingerprint[:16]}-{job_type}",
        "resume": "allow",
        "group": group,
        "name": name,
        "job_type": job_type,
        "tags": [tag[:64] for tag in tags],
        "config": dict(config),
    }


class Mirror:
    """The other process. It ends when this one does, in whatever way."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], home: Path) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if mode(os.environ) == "disabled":
            return
        home.mkdir(parents=True, exist_ok=True)
        write_json(folder / REQUEST, settings)
        command = [sys.executable, "-m", "harness.callbacks.wandb_mirror", str(folder.resolve()), str(home.resolve())]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
        try:
            with open(folder / LOG, "wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
                )
        except OSError as error:
            print(f"W&B: not mirrored ({error}); the run's own history is complete", file=sys.stderr)

    def close(self) -> None:
        """Let it read the last rows and finish; say so if it failed."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            if self._process.wait(PATIENCE) != 0:
                print(f"W&B: the mirror failed (see {LOG}); the run's own history is complete", file=sys.stderr)
        except subprocess.TimeoutExpired:
            print("W&B: the mirror is still busy and finishes by itself", file=sys.stderr)


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


def follow(folder: Path, run: Any, ended: threading.Event, interval: float = INTERVAL) -> int:
    """Log rows as they appear, until the run has ended; returns their number. `run` is a wandb run.

    The step is the batch: W&B drops the rows of a continued run that it has already.
    """
    seen = dict.fromkeys(TABLES, 0)
    for prefix, axis in TABLES.values():
        run.define_metric(axis)
        run.define_metric(f"{prefix}*", step_metric=axis)
    while True:
        last = ended.is_set()
        rows = []
        for table, (prefix, _) in TABLES.items():
            for row in new_rows(folder / table, seen[table]):
                rows.append((int(float(row["batch"])), {f"{prefix}{name}": value for name, value in row.items()}))
                seen[table] += 1
        for batch, row in sorted(rows, key=lambda item: item[0]):
            run.log(row, step=batch)
        if last:
            return sum(seen.values())
        ended.wait(interval)


def _watch(stream: IO[bytes], ended: threading.Event) -> None:
    stream.read()  # returns when the trainer closes its end, or is gone
    ended.set()


def main(argv: list[str]) -> int:
    """`python -m harness.callbacks.wandb_mirror FOLDER HOME`: mirror the tables in FOLDER; W&B's files go to HOME."""
    folder, home = map(Path, argv)
    os.nice(10)
    os.environ.setdefault("WANDB_SILENT", "true")
    ended = threading.Event()
    threading.Thread(target=_watch, args=(sys.stdin.buffer, ended), daemon=True).start()
    import wandb

    quiet = wandb.Settings(console="off", disable_git=True, disable_code=True, x_disable_stats=True)
    with wandb.init(mode=mode(os.environ), dir=home, settings=quiet, **read_json(folder / REQUEST)) as run:  # type: ignore[arg-type]
        follow(folder, run, ended)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
