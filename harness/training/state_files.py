"""Saved states of a run on disk: written whole or not at all, checked when read, the newest good one found.

A state is a folder `batch00000100/` with one file per process and `state.json` (stage, fingerprint, batch, world size,
sums). It is made under another name and renamed when every file is on disk. Files hold tensors and plain values only
and are read with `weights_only=True`. Each process reads and checks its own file only; what any of them finds wrong,
all of them hear of, so none waits for one that has stopped.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness.errors import HarnessError
from harness.io import atomic_write_bytes, read_json, sha256_file, write_json

INDEX = "state.json"
_NAME = re.compile(r"batch(\d{8,})")
_T = TypeVar("_T")

Gather = Callable[[Any], list[Any]]  # every process's value, in the order of the processes; returns in all at once


def alone(value: _T) -> list[_T]:
    """The `Gather` of a single process."""
    return [value]


def in_all(call: Callable[[], _T], gather: Gather) -> list[_T]:
    """Call in every process; what each of them got.

    Raises:
        HarnessError: in all of them, if it was raised in one.
    """
    result, problem = None, None
    try:
        result = call()
    except HarnessError as error:
        problem = str(error)
    outcomes: list[tuple[Any, str | None]] = gather((result, problem))
    problems = dict.fromkeys(problem for _, problem in outcomes if problem is not None)
    if problems:
        raise HarnessError("\n".join(problems))
    return [result for result, _ in outcomes]


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
    stage: str,
    fingerprint: str,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = alone,
    keep: int = 2,
) -> None:
    """Save the state after `batch` batches; every process calls it with its own content. The last `keep` states stay.

    States of later batches are removed: the run went on from an earlier one because they are damaged.

    Raises:
        HarnessError: in all processes, if the disk is full or refuses in one (what was saved before stays).
    """
    work = root / f".{state_folder(root, batch).name}.partial"

    def clear() -> None:
        if rank == 0:
            for path in root.glob(".batch*.partial"):
                _remove(path)

    def save() -> str:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        atomic_write_bytes(rank_file(work, rank), data)
        return hashlib.sha256(data).hexdigest()

    def complete() -> None:
        if rank == 0:
            index = {"stage": stage, "fingerprint": fingerprint, "batch": batch, "world_size": world_size}
            write_json(work / INDEX, {**index, "sha256": {f"rank{r}.pt": s for r, s in enumerate(sums)}})
            _rename(work, state_folder(root, batch))
            saved = sorted(batches_saved(root), reverse=True)
            earlier = [old for old in saved if old <= batch]
            for old in [*(later for later in saved if later > batch), *earlier[keep:]]:
                _remove(state_folder(root, old))

    try:
        in_all(clear, gather)
        sums = in_all(save, gather)
        in_all(complete, gather)
    except HarnessError as error:
        if rank == 0:
            shutil.rmtree(work, ignore_errors=True)
        good = max((b for b in batches_saved(root) if b != batch), default=None)
        last = "no state was saved before" if good is None else f"{state_folder(root, good)} is whole"
        raise HarnessError(f"{error}\nThe state after batch {batch} was not saved; {last}") from error


def _rename(work: Path, folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
        descriptor = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # before older states go
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HarnessError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise HarnessError(
            f"{folder}: cannot be removed ({error.strerror or error}); fix the permissions, then run again"
        ) from error


def batches_saved(root: Path) -> list[int]:
    """Batch numbers of all states that were completed, whether they are still readable or not."""
    if not root.is_dir():
        return []
    return [int(match[1]) for path in root.iterdir() if (match := _NAME.fullmatch(path.name))]


def check_state(folder: Path, *, stage: str, fingerprint: str, world_size: int, rank: int = 0) -> str | None:
    """What is damaged about a state, or None; of the files of processes, this one's is looked at.

    Raises:
        HarnessError: it is whole, but of another run or another number of processes.
    """
    try:
        index = read_json(folder / INDEX)
        whose, found, ranks, sums = (index[key] for key in ("stage", "fingerprint", "world_size", "sha256"))
        if ranks == world_size:
            expected = sums[rank_file(folder, rank).name]
    except (HarnessError, KeyError, TypeError) as error:
        return f"{folder / INDEX}: {error}"
    if found != fingerprint:
        raise HarnessError(
            f"{folder}: is a state of {whose} (run {str(found)[:16]}), this is {stage} (run {fingerprint[:16]}); no "
            "run goes on from another's state. Delete it, or use another folder"
        )
    if ranks != world_size:
        raise HarnessError(
            f"{folder}: was saved by {ranks} processes, now there are {world_size}; start as many, or delete it"
        )
    path = rank_file(folder, rank)
    if not path.is_file() or sha256_file(path) != expected:
        return f"{path}: damaged or missing"
    return None


def newest_good(
    root: Path,
    *,
    stage: str,
    fingerprint: str,
    world_size: int,
    rank: int = 0,
    gather: Gather = alone,
    tell: Callable[[str], Any] = lambda text: None,
) -> int | None:
    """Batch number of the newest state that no process finds damaged, or None; the same in all of them.

    Damaged ones are told about and left alone.

    Raises:
        HarnessError: in all processes, if a whole state belongs to another run or number of processes.
    """
    seen_by_all = set[int].intersection(*map(set, gather(batches_saved(root))))
    for batch in sorted(seen_by_all, reverse=True):
        folder = state_folder(root, batch)
        found = in_all(
            lambda folder=folder: check_state(
                folder, stage=stage, fingerprint=fingerprint, world_size=world_size, rank=rank
            ),
            gather,
        )
        problems = dict.fromkeys(problem for problem in found if problem is not None)
        if not problems:
            return batch
        tell("\n".join(f"{problem}; an older state is used" for problem in problems))
    return None


def read_state(root: Path, batch: int, rank: int = 0) -> dict[str, Any]:
    """What this process saved after `batch` batches, on the CPU."""
    return torch.load(rank_file(state_folder(root, batch), rank), map_location="cpu", weights_only=True)
