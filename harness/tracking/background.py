"""Starting the mirror: another process, which nobody waits for and whose failures stop nothing.

Training and the stages neither import wandb nor wait for it. Offline unless `WANDB_MODE` or `WANDB_API_KEY` say
otherwise; `WANDB_MODE=disabled` mirrors nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness.errors import HarnessError
from harness.tracking.requests import Request
from harness.tracking.run_ids import mode
from harness.tracking.store import HOME, Entry, put

PATIENCE = 3.0  # seconds that a finished run waits to hear of a failure; its mirror goes on alone after that
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
LATER = "nothing is lost; `python -m harness wandb sync` uploads it later"


def start(entry: Entry, *arguments: str, stdin: int, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start the process that mirrors a run, with a wandb-core of its own. Raises OSError."""
    # A wandb-core that other runs share would keep the run's ID in use after this process was killed.
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    command = [sys.executable, "-m", "harness.tracking.mirror", str(entry.folder.resolve()), *arguments]
    with open(entry.log, "ab") as log:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=log,
            stderr=log,
            env={**inherited, **(environment or {}), "PYTHONPATH": str(PACKAGE_PARENT)},
            start_new_session=True,
        )


class Mirror:
    """Follows a run's tables while it trains. It ends when this process does, in whatever way."""

    def __init__(self, request: Request, root: Path) -> None:
        self._process: subprocess.Popen | None = None
        self._entry: Entry | None = None
        if mode(os.environ) == "disabled":
            return
        try:
            self._entry = put(request, root / HOME)
            self._process = start(self._entry, "--follow", stdin=subprocess.PIPE)
        except (OSError, HarnessError) as error:
            print(f"W&B: not mirrored ({error}); {LATER}", file=sys.stderr)

    def close(self) -> None:
        """Let it read the last rows and finish by itself; say so if it has failed already."""
        if self._process is None or self._process.stdin is None or self._entry is None:
            return
        self._process.stdin.close()
        try:
            if self._process.wait(PATIENCE) != 0:
                print(f"W&B: the mirror failed (see {self._entry.log}); {LATER}", file=sys.stderr)
        except subprocess.TimeoutExpired:
            print("W&B: the mirror is still busy and finishes by itself (`python -m harness wandb status`)")


def publish(make_request: Callable[[], Request], root: Path) -> None:
    """Mirror what a finished stage left on disk. Returns at once and never raises."""
    if mode(os.environ) == "disabled":
        return
    try:
        start(put(make_request(), root / HOME), stdin=subprocess.DEVNULL)
    except (OSError, HarnessError, KeyError) as error:
        print(f"W&B: not mirrored ({error}); {LATER}", file=sys.stderr)
