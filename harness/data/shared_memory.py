"""Opening streaming datasets when several trainings share a machine.

`streaming` numbers its shared memory blocks 0, 1, 2, … and takes the first free number, without a lock: two trainings
that start together can take the same one. Its own cleaning call removes every block of the user, those of running
trainings too. Here starts are serialised by a lock file, each process group holds a lock on its number for as long as
it lives, and only numbers whose holder is gone are cleaned. Blocks of programs that do not take part are never
touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist
from streaming import StreamingDataset
from streaming.base.constant import BARRIER_FILELOCK, CACHE_FILELOCK, SHM_TO_CLEAN
from streaming.base.distributed import get_local_rank, maybe_init_dist
from streaming.base.shared import _get_path

_SHM = Path("/dev/shm")
_OWNER = "harness_owner"
_held: list[TextIO] = []  # closed, and so unlocked, by the kernel when the process ends in whatever way


def _root() -> Path:
    return Path(tempfile.gettempdir())


@contextlib.contextmanager
def _starting(path: Path) -> Iterator[None]:
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _own(prefix: int) -> None:
    """Hold the lock that says that a number is in use."""
    owner = open(_root() / _get_path(prefix, _OWNER), "a")  # noqa: SIM115 (held for life)
    fcntl.flock(owner, fcntl.LOCK_EX)
    _held.append(owner)


def release_stale() -> list[int]:
    """Remove the shared memory of trainings that are gone; call it while holding the start lock. Returns the numbers
    freed.
    """
    freed = []
    for owner in sorted(_root().glob(f"*_{_OWNER}")):
        match = re.fullmatch(rf"(\d+)_{_OWNER}", owner.name)
        if match is None or not os.access(owner, os.W_OK):
            continue
        prefix = int(match[1])
        with open(owner, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for name in SHM_TO_CLEAN:
                (_SHM / _get_path(prefix, name)).unlink(missing_ok=True)
            for name in (BARRIER_FILELOCK, CACHE_FILELOCK, _OWNER):
                (_root() / _get_path(prefix, name)).unlink(missing_ok=True)
        freed.append(prefix)
    return freed


def open_streaming(**arguments: Any) -> StreamingDataset:
    """`StreamingDataset(**arguments)`, safe beside other trainings on the machine; every rank calls it.

    The start lock is taken per node by local rank 0 and covers the construction on all its ranks.
    """
    ends_group = maybe_init_dist()
    leader = get_local_rank() == 0
    try:
        with _starting(_root() / f"harness-streaming-{os.getuid()}.lock") if leader else contextlib.nullcontext():
            if leader:
                release_stale()
            if dist.is_initialized():
                dist.barrier()  # nobody looks for a number before the lock is held
            dataset = StreamingDataset(**arguments)
            if leader:
                _own(dataset._shm_prefix_int)
            if dist.is_initialized():
                dist.barrier()
        return dataset
    finally:
        if ends_group:
            dist.destroy_process_group()
