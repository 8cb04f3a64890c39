"""`.work/wandb/`: what is mirrored, how far that got, and W&B's own files."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.tracking.requests import Request

HOME = Path(".work/wandb")
STILL_MIRRORED = 4  # exit status of the mirroring process if another one is at it


class Busy(HarnessError):
    """Another process mirrors the run."""


@frozen
class Entry:
    """The folder of one W&B run: its request, its status, the log of the process that mirrors it."""

    folder: Path

    @property
    def home(self) -> Path:
        """Where W&B keeps its own files."""
        return self.folder.parents[1]

    @property
    def log(self) -> Path:
        """What the mirroring process printed."""
        return self.folder / "log"

    def request(self) -> Request:
        """What is to be mirrored.

        Raises:
            HarnessError: the request is missing or damaged.
        """
        path = self.folder / "request.json"
        try:
            return Request.from_json(read_json(path))
        except (TypeError, KeyError, AttributeError) as error:
            raise HarnessError(f"{path}: not a tracking request ({error}); delete the folder {self.folder}") from error

    def status(self) -> dict[str, Any]:
        """How far it got: `state` is none, running, offline, uploaded or failed."""
        path = self.folder / "status.json"
        return read_json(path) if path.is_file() else {"state": "none"}

    def note(self, state: str, **details: Any) -> None:
        """Record how far it got."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        write_json(self.folder / "status.json", {"state": state, "at": now, **details})

    @contextlib.contextmanager
    def held(self, *, wait: bool = True) -> Iterator[None]:
        """Mirror alone: a second process of the same run waits its turn, or is told.

        Raises:
            Busy: another process mirrors it, and `wait` is false.
        """
        with open(self.folder / "lock", "a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(f"{self.folder}: is still being mirrored by another process") from error
            yield


def put(request: Request, home: Path) -> Entry:
    """Write a request to its place."""
    entry = Entry(home / "runs" / request.id)
    write_json(entry.folder / "request.json", request.to_json())
    return entry


def entries(home: Path) -> list[Entry]:
    """All runs that were ever to be mirrored, by id."""
    return [Entry(path.parent) for path in sorted((home / "runs").glob("*/request.json"))]
