"""`python -m harness wandb sync`: upload, and ask the server whether it has everything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from harness.tracking import background
from harness.tracking.discover import chosen, everything
from harness.tracking.requests import Request
from harness.tracking.store import HOME, STILL_MIRRORED, Entry, put

TIMEOUT = 600.0  # seconds for one attempt at one run
STILL = "is still being mirrored"
PAUSE = 2.0  # seconds before the second attempt; doubled before each further one


def upload(entry: Entry, *, attempts: int, timeout: float) -> str | None:
    """Upload one run, again if it fails; returns what is wrong, in words, or None.

    `STILL` is no failure: the mirror of a run that trains, or has just ended, is at it.
    """
    problem: str | None = None
    for attempt in range(attempts):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        problem = attempt_upload(entry, timeout)
        if problem is None or problem == STILL:
            break
    return problem


def attempt_upload(entry: Entry, timeout: float) -> str | None:
    """One attempt, by the mirroring process; its word is not enough: it must have noted that the server has all."""
    process = background.start(
        entry, "--check-first", stdin=subprocess.DEVNULL, environment={"WANDB_MODE": "online", "WANDB_SILENT": "true"}
    )
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # wandb's own process may outlive ours
        process.wait()
    if code == STILL_MIRRORED:
        return STILL
    status = entry.status()
    if code == 0 and status["state"] == "uploaded":
        return None
    return status.get("error") or f"the uploading process ended with status {code}; see {entry.log}"


def sync(targets: Sequence[str], root: Path, *, attempts: int = 3, timeout: float = TIMEOUT) -> int:
    """Upload the targets (all, if none is named), say how each went; returns the exit status.

    Raises:
        HarnessError: a target has nothing to upload.
    """
    failed: list[Request] = []
    busy: list[Request] = []
    requests = chosen(everything(root), targets)
    for request in requests:
        problem = upload(put(request, root / HOME), attempts=attempts, timeout=timeout)
        if problem is not None:
            (busy if problem == STILL else failed).append(request)
        print(f"{request.kind:<9} {request.target}: {problem or 'uploaded and checked'}", flush=True)
    if not requests:
        print("nothing to upload yet")
    if failed:
        print(f"{len(failed)} of {len(requests)} not uploaded; nothing is lost: run the same command again")
    if busy:
        print(f"{len(busy)} of {len(requests)} still being mirrored; run the same command again when that has ended")
    return 1 if failed or busy else 0
