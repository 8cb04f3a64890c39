"""`.work/runs/<fingerprint>/`: where a run is trained, once, and from where its results go to who asked for it.

No two processes ever share a run's files: the first takes a lock that the system frees when it ends, in whatever way.
Nothing here needs torch, so giving out a finished run is quick.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.errors import HarnessError
from harness.io import atomic_write_bytes, read_json, write_json

RUNS = Path(".work/runs")
FINISHED = "finished.json"
LOCK = "lock"
RESULTS = ("history.csv", "quality.csv", "diff.patch")


@frozen
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def output(self) -> Path:
        """What is given out: `checkpoints/` (model folders) and `results/`."""
        return self.path / "output"

    @property
    def finished(self) -> bool:
        """Whether the run is complete. The marker is the last thing written."""
        return (self.path / FINISHED).is_file()

    def started(self) -> str:
        """When the run was first started (UTC), however often it was interrupted."""
        path = self.path / "started.json"
        if not path.is_file():
            write_json(path, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return read_json(path, kind=str)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest and the marker; states and other means are then removed."""
        write_json(self.output / "manifest.json", manifest)
        write_json(self.path / FINISHED, {"fingerprint": manifest["fingerprint"]})
        for name in ("states", "best", "init"):
            shutil.rmtree(self.path / name, ignore_errors=True)


def run_folder(root: Path, fingerprint: str) -> RunFolder:
    """The folder of the run with this fingerprint, made if needed."""
    path = root / RUNS / fingerprint[:32]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be made ({error.strerror}); {RUNS} is where runs are kept") from error
    return RunFolder(path)


def launch_name(environment: Mapping[str, str]) -> str | None:
    """What the processes of one launch have in common, and no other launch at this time; None for a single process."""
    if int(environment.get("WORLD_SIZE", 1)) == 1:
        return None
    return f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"


def follow(folder: RunFolder, launch: str | None, interval: float = 0.2) -> None:
    """For all processes of a launch but the first: return when that one holds the run, or the run is finished.

    There is no limit: the first may wait for another launch for days, and when it gives up, the launcher ends us too.
    """
    while not folder.finished:
        with contextlib.suppress(ValueError, KeyError, OSError):
            if json.loads((folder.path / LOCK).read_text(encoding="utf-8"))["launch"] == launch:
                return
        time.sleep(interval)


@contextlib.contextmanager
def held(folder: RunFolder, *, wait: bool, what: str, launch: str | None = None) -> Iterator[None]:
    """Hold a run alone; the first process of a launch does it for all.

    Raises:
        HarnessError: another process holds it (its number, host and start are named), unless `wait`.
    """
    path = folder.path / LOCK
    with open(path, "a+", encoding="utf-8") as lock:
        if not _locked(lock.fileno()):
            holder = _holder(path)
            if not wait:
                raise HarnessError(
                    f"{folder.path}: {what} is being trained by {holder}. Wait for it with --wait, or end that process"
                )
            print(f"{what}: waiting for {holder}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since, "launch": launch}, lock)
        lock.flush()
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    for _ in range(20):  # the holder writes its name a moment after it takes the lock
        with contextlib.suppress(ValueError, KeyError, OSError):
            found = json.loads(path.read_text(encoding="utf-8"))
            return f"process {found['pid']} on {found['host']}, since {found['since']}"
        time.sleep(0.05)
    return "another process"


def materialize(folder: RunFolder, checkpoints: Path, results: Path, own: Mapping[str, Any]) -> None:
    """Copy a finished run's model folders to `checkpoints` and its tables and manifest to `results`.

    Each appears whole or not at all, and the same run gives the same bytes each time. `own` goes into the manifest:
    what belongs to this copy (target, command), not to the run.

    Raises:
        HarnessError: the run is not whole.
    """
    manifest = read_json(folder.output / "manifest.json")
    _replace_folder(folder.output / "checkpoints", checkpoints)
    for name in RESULTS:
        source = folder.output / name
        if source.is_file():
            atomic_write_bytes(results / name, source.read_bytes())
        else:
            (results / name).unlink(missing_ok=True)  # an earlier run's
    write_json(results / "manifest.json", {**manifest, **own})


def _replace_folder(source: Path, destination: Path) -> None:
    if not source.is_dir():
        raise HarnessError(f"{source}: missing; delete {source.parents[1]} and train again")
    destination.parent.mkdir(parents=True, exist_ok=True)
    new = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.new")
    old = new.with_suffix(".old")
    try:
        shutil.copytree(source, new)
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        if destination.exists():
            destination.rename(old)
        new.rename(destination)
        _sync(destination.parent)
    except OSError as error:
        if old.exists() and not destination.exists():
            old.rename(destination)
        raise HarnessError(
            f"{destination}: cannot be written ({error.strerror or error}); free space or fix the permissions, and run "
            "again"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
