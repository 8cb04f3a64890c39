"""The processes of one launch, and the lock that keeps a second launch out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from attrs import frozen

from harness.errors import HarnessError


def _alone() -> None:
    """The barrier of a single process."""


@frozen
class Processes:
    """Which of the launch's processes this is. `barrier` returns when all of them have called it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    barrier: Callable[[], object] = _alone


@contextlib.contextmanager
def join_processes() -> Iterator[Processes]:
    """Join the processes that the `composer` launcher (or torchrun) started, over gloo; alone without a launcher.

    Raises:
        HarnessError: the launcher's variables are incomplete.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise HarnessError(
            f"WORLD_SIZE is {world_size}, but {', '.join(missing)} is not set; start it with the `composer` launcher"
        )
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # one process may wait long for another's last part
    try:
        yield Processes(int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_RANK"]), dist.barrier)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def hold(folder: Path, wait: bool, processes: Processes) -> Iterator[None]:
    """Rank 0 holds a lock beside `folder` (which is made) for the length of the block, so that one launch works there
    at a time.

    Raises:
        HarnessError: another launch holds it, and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if processes.rank != 0:
        processes.barrier()
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    with open(folder.with_name(f"{folder.name}.lock"), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            if not wait:
                raise HarnessError(
                    f"{lock.name}: {holder} is at work on the same data. Wait for it (`--wait`), or stop it first"
                ) from None
            print(f"waiting for {holder} to finish the same data …", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()}")
        lock.flush()
        folder.mkdir(parents=True, exist_ok=True)  # the former holder may have removed it
        processes.barrier()
        yield
