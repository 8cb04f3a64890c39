"""Saved states of a run on disk: written whole or not at all, checked when read, the newest good one found.

A state is a folder `batch00000100/` with one file per process and `state.json` (fingerprint, batch, world size, sums).
It is made under another name and renamed when every file is on disk. Files hold tensors and plain values only and are
read with `weights_only=True`.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.errors import HarnessError
from harness.io import atomic_write_bytes, read_json, sha256_file, write_json

INDEX = "state.json"
_NAME = re.compile(r"batch(\d{8,})")


def state_folder(root: Path, batch: int) -> Path:
    """The folder of the state after `batch` batches."""
    return root / f"batch{batch:08d}"


def rank_file(folder: Path, rank: int) -> Path:
    """The file of one process."""
    return folder / f"rank{rank}.pt"


def write_state(
    root: Path,
    batch: int,
    content: dict[str, Any],
    *,
    fingerprint: str,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], Any] = lambda: None,
    keep: int = 2,
) -> None:
    """Save the state after `batch` batches; every process calls it with its own content. The last `keep` states stay.

    Raises:
        HarnessError: the disk is full or refuses (what was saved before stays).
    """
    work = root / f".{state_folder(root, batch).name}.partial"
    if rank == 0 and work.exists():
        shutil.rmtree(work)
    barrier()
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic_write_bytes(rank_file(work, rank), buffer.getvalue())
    barrier()
    if rank == 0:
        sums = {f"rank{r}.pt": sha256_file(rank_file(work, r)) for r in range(world_size)}
        write_json(work / INDEX, {"fingerprint": fingerprint, "batch": batch, "world_size": world_size, "sha256": sums})
        folder = state_folder(root, batch)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
        for old in sorted(batches_saved(root), reverse=True)[keep:]:
            shutil.rmtree(state_folder(root, old))
    barrier()


def batches_saved(root: Path) -> list[int]:
    """Batch numbers of all states that were completed, whether they are still readable or not."""
    if not root.is_dir():
        return []
    return [int(match[1]) for path in root.iterdir() if (match := _NAME.fullmatch(path.name))]


def check_state(folder: Path, *, fingerprint: str, world_size: int) -> str | None:
    """What is damaged about a state, or None.

    Raises:
        HarnessError: it is whole, but of another run or another number of processes.
    """
    try:
        index = read_json(folder / INDEX)
        found, ranks, sums = index["fingerprint"], index["world_size"], index["sha256"]
    except (HarnessError, KeyError, TypeError) as error:
        return f"{folder / INDEX}: {error}"
    if found != fingerprint:
        raise HarnessError(
            f"{folder}: is the state of run {str(found)[:16]}, this is run {fingerprint[:16]}; no run goes on from "
            "another's state. Delete it, or use another folder"
        )
    if ranks != world_size:
        raise HarnessError(
            f"{folder}: was saved by {ranks} processes, now there are {world_size}; start as many, or delete it"
        )
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != expected:
            return f"{path}: damaged or missing"
    return None


def newest_good(
    root: Path, *, fingerprint: str, world_size: int, tell: Callable[[str], Any] = lambda text: None
) -> int | None:
    """Batch number of the newest undamaged state, or None. Damaged ones are told about and left alone.

    Raises:
        HarnessError: a whole state belongs to another run or number of processes.
    """
    for batch in sorted(batches_saved(root), reverse=True):
        problem = check_state(state_folder(root, batch), fingerprint=fingerprint, world_size=world_size)
        if problem is None:
            return batch
        tell(f"{problem}; an older state is used")
    return None


def read_state(root: Path, batch: int, rank: int = 0) -> dict[str, Any]:
    """What this process saved after `batch` batches, on the CPU."""
    return torch.load(rank_file(state_folder(root, batch), rank), map_location="cpu", weights_only=True)
