"""Reading and writing MDS folders: named columns, checksums in the index, written under another name and renamed when
whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter
from streaming.base.local import LocalDataset

from harness.errors import HarnessError
from harness.io import atomic_write_text

HASH = "sha256"
SHARD_BYTES = 1 << 26
INDEX = "index.json"
UNCONDITIONAL = "unconditional.safetensors"  # beside the splits: the embedding of the empty prompt
NEGATIVE = "negative.safetensors"  # beside it, where there is a negative prompt: that one's

CLIP_COLUMNS = {"key": "str", "video": "ndarray:uint8", "caption": "str", "attributes": "json"}
ENCODED_COLUMNS = {
    "key": "str",
    "latent": "ndarray:float16",  # [C, F, h, w]
    "text": "ndarray:float16",  # [L, D], not padded
    "first_frame": "ndarray:uint8",  # [H, W, 3]
    "caption": "str",
    "attributes": "json",
}
IMAGE_COLUMNS = {  # of encoded data for image to video, besides
    "image_tokens": "ndarray:float16",  # [T, D]
    "y": "ndarray:float16",  # [4 + C, F, h, w]
}
PROMPT_COLUMNS = {"key": "str", "text": "ndarray:float16", "caption": "str", "attributes": "json"}
SPLITS = ("train", "validation", "test")
WRITTEN = ("report.json", "fingerprint.json", "text_encoder")  # by clips, encoded data and prompts, encoders


@contextlib.contextmanager
def disk_errors_named(folder: str | Path, advice: str) -> Iterator[None]:
    """Turn a full disk, an exceeded quota or a refused write into a HarnessError that says how much is free and what to
    do.
    """
    try:
        yield
    except OSError as error:
        place = Path(folder)
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free / 2**20
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(
                f"{folder}: disk full while writing ({free:.0f} MiB free on its file system). {advice}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HarnessError(
                f"{folder}: cannot be written ({error.strerror}). Fix its permissions. {advice}"
            ) from error
        raise HarnessError(f"{folder}: cannot be written ({error}). Give another folder") from error


def write_mds(
    folder: str | Path,
    columns: Mapping[str, str],
    samples: Iterable[Mapping[str, Any]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write `samples` to shards with sha256 sums and an index in `folder`, which must not exist. Returns their number.

    The caller writes to a temporary name and renames: a folder with an index is then always a whole one. Same
    samples, same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    writer = MDSWriter(out=str(folder), columns=dict(columns), hashes=[HASH], size_limit=shard_bytes)
    count = 0
    try:
        for sample in samples:
            writer.write(dict(sample))
            count += 1
    except BaseException:
        writer.cancel_future_jobs()
        raise
    writer.finish()
    return count


def merge_indices(folder: str | Path, parts: Iterable[str]) -> int:
    """Write the index of `folder` over its sub-folders `parts`, in this order. Returns the number of samples."""
    folder = Path(folder)
    shards: list[dict] = []
    for part in parts:
        for shard in read_index(folder / part):
            shard["raw_data"]["basename"] = f"{part}/{shard['raw_data']['basename']}"
            shards.append(shard)
    atomic_write_text(folder / INDEX, json.dumps({"version": 2, "shards": shards}, sort_keys=True))
    return sum(shard["samples"] for shard in shards)


def read_index(folder: str | Path) -> list[dict]:
    """The shards an MDS index names.

    Raises:
        HarnessError: there is no index, or it is damaged.
    """
    path = Path(folder) / INDEX
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError:
        raise HarnessError(
            f"{path}: no such file. Expected an MDS folder; run `dvc repro encode` (it makes missing data)"
        ) from None
    except (ValueError, OSError) as error:
        raise HarnessError(
            f"{path}: damaged index ({error}). Delete {path.parent} and run `dvc repro encode` again"
        ) from error
    try:
        for shard in index["shards"]:
            _ = shard["raw_data"]["basename"], shard["raw_data"]["bytes"], shard["samples"]
    except (KeyError, TypeError) as error:
        raise HarnessError(
            f"{path}: damaged index (no {error}). Delete {path.parent} and run `dvc repro encode` again"
        ) from error
    return index["shards"]


def count_samples(folder: str | Path) -> int:
    """How many samples the index of `folder` promises."""
    return sum(shard["samples"] for shard in read_index(folder))


def iter_samples(folder: str | Path, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
    """Samples `start` … `stop` in stored order, without shared memory; arrays are read-only views of what was read.

    Raises:
        HarnessError: the folder is not whole, or a shard cannot be decoded.
    """
    shards = read_index(folder)
    for shard in shards:
        if not (path := Path(folder) / shard["raw_data"]["basename"]).is_file():
            raise HarnessError(f"{path}: shard is missing. Delete {folder} and run `dvc repro` again")
    dataset = LocalDataset(str(folder))
    for i in range(start, len(dataset) if stop is None else min(stop, len(dataset))):
        try:
            yield dataset[i]
        except Exception as error:  # whatever a decoder makes of damaged bytes
            raise HarnessError(
                f"{folder}: sample {i} cannot be decoded ({error}). "
                f"`python -m harness verify-data` names the damaged shard"
            ) from error


def load_split(
    folder: str | Path, limit: int | None = None, pick: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A whole split (or its first `limit` samples) in memory: for evaluation and monitors.

    Returns a dict of the stored columns: `latent` float16 `[N, C, F, h, w]`, `video` uint8 `[N, F, H, W, 3]`,
    `first_frame` uint8 `[N, H, W, 3]`, `image_tokens` float16 `[N, T, D]` and `y` float16 `[N, 4 + C, F, h, w]`
    stacked, `text` a list of float16 `[L, D]`, `key`, `caption` and `attributes` lists. `pick` says what to keep of
    each sample. No shared memory, so it may be called beside a running training.

    Raises:
        HarnessError: the folder is missing, damaged or has fewer than `limit` samples.
    """
    if limit is not None and (found := count_samples(folder)) < limit:
        raise HarnessError(
            f"{folder}: {limit} samples wanted, it has {found}. Raise data.clips or lower the number asked for"
        )
    samples = [sample if pick is None else pick(sample) for sample in iter_samples(folder, stop=limit)]
    if not samples:
        raise HarnessError(f"{folder}: has no samples")
    columns: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    for name in ("latent", "video", "first_frame", *IMAGE_COLUMNS):
        if name in columns:
            columns[name] = np.stack(columns[name])
    return columns


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A fresh folder beside `target` that takes its place when the block ends well, and goes away when it does not.

    What an earlier, killed process left is removed. Raises HarnessError where `target` is a file, or a folder that
    none of the data stages has written: it would be lost.
    """
    target = Path(target)
    if target.exists() and not _ours(target):
        raise HarnessError(
            f"{target}: is there, and was not written by a data stage; it would be replaced. Give another --out, or "
            "move it away"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.new-*"):
        if not _alive(leftover.name.rpartition("-")[2]):
            shutil.rmtree(leftover, ignore_errors=True)
    new = target.with_name(f".{target.name}.new-{os.getpid()}")
    old = target.with_name(f".{target.name}.new-{os.getpid()}-old-{os.getpid()}")
    try:
        new.mkdir()
        yield new
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _ours(target: Path) -> bool:
    """Whether a folder is empty or has a file that every data stage leaves."""
    return target.is_dir() and (not any(target.iterdir()) or any((target / name).exists() for name in WRITTEN))


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
