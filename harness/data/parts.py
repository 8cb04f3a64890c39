"""Parts of a split: the unit in which encoding is shared out, kept after an interruption, and put together."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from harness.data.mds import INDEX, SPLITS, count_samples, merge_indices, read_index, write_mds
from harness.data.prepare import MANIFEST
from harness.data.shards import verify_shards
from harness.errors import HarnessError
from harness.io import read_json, write_json
from harness.models.text import EncodedText

PART_CLIPS = 256
SIDE_FILE = "part.json"


@frozen(kw_only=True)
class Part:
    """Clips `start` … `stop` of a split; `keys` are theirs, `number` counts over all splits."""

    number: int
    split: str
    index: int  # within the split
    start: int
    stop: int
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """Folder name within the split."""
        return f"part-{self.index:05d}"

    def folder(self, work: Path) -> Path:
        """Where the finished part waits."""
        return work / self.split / self.name

    def write(
        self,
        work: Path,
        columns: Mapping[str, str],
        rows: Iterable[Mapping[str, Any]],
        encode_text: Callable[[str], EncodedText],
    ) -> None:
        """Write the part under a temporary name, check it holds exactly its clips, and rename it."""
        target = self.folder(work)
        new = target.with_name(f".{self.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        summary = _Summary()
        write_mds(new, columns, summary.watch(rows, encode_text))
        if tuple(summary.keys) != self.keys:
            raise HarnessError(
                f"{target}: holds {len(summary.keys)} clips that are not the {len(self.keys)} of data/clips; "
                f"data/clips changed meanwhile, run `dvc repro encode` again"
            )
        write_json(new / SIDE_FILE, summary.to_json())
        os.replace(new, target)


class _Summary:
    """What a part holds, gathered while it is written."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.count = 0
        self.total = 0.0
        self.squares = 0.0
        self.low, self.high = math.inf, -math.inf
        self.unknown_words: dict[str, int] = {}
        self.truncated: list[str] = []

    def watch(
        self, rows: Iterable[Mapping[str, Any]], encode_text: Callable[[str], EncodedText]
    ) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            latent = row["latent"].astype(np.float64)
            self.keys.append(row["key"])
            self.count += latent.size
            self.total += float(latent.sum())
            self.squares += float(np.square(latent).sum())
            self.low, self.high = min(self.low, float(latent.min())), max(self.high, float(latent.max()))
            words = encode_text(row["caption"])
            if words.unknown_words:
                self.unknown_words[row["caption"]] = words.unknown_words
            if words.truncated:
                self.truncated.append(row["key"])
            yield row

    def to_json(self) -> dict[str, Any]:
        return {
            "keys": self.keys,
            "count": self.count,
            "total": self.total,
            "squares": self.squares,
            "low": self.low,
            "high": self.high,
            "unknown_words": self.unknown_words,
            "truncated": self.truncated,
        }


def parts_of(clips: Path, size: int | None = None) -> list[Part]:
    """Cut every split of `data/clips` into parts of `size` clips (default `PART_CLIPS`).

    Raises:
        HarnessError: the clips' manifest and their index disagree.
    """
    size = size or PART_CLIPS
    keys_of = read_json(clips / MANIFEST)["keys"]
    parts: list[Part] = []
    for split in SPLITS:
        keys, found = keys_of[split], count_samples(clips / split)
        if found != len(keys) or len(set(keys)) != len(keys):
            raise HarnessError(
                f"{clips / MANIFEST}: names {len(set(keys))} different clips of {split}, the index has {found}. "
                f"Delete {clips} and run `dvc repro` again"
            )
        for index, start in enumerate(range(0, len(keys), size)):
            stop = min(start + size, len(keys))
            parts.append(
                Part(number=len(parts), split=split, index=index, start=start, stop=stop, keys=tuple(keys[start:stop]))
            )
    return parts


def finished(work: Path, part: Part) -> bool:
    """Whether an earlier call left this part whole: its keys and the sums of its shards are checked."""
    folder = part.folder(work)
    if not (folder / SIDE_FILE).is_file():
        return False
    try:
        return verify_shards(folder) == len(part) and tuple(read_json(folder / SIDE_FILE)["keys"]) == part.keys
    except HarnessError:
        return False


def assemble(work: Path, parts: list[Part], out: Path) -> dict[str, Any]:
    """Bring finished parts together in `out` (hard links where possible) and write each split's index. Returns the
    report.

    Raises:
        HarnessError: a clip is missing or there twice.
    """
    sides: list[dict[str, Any]] = []
    for part in parts:
        source, target = part.folder(work), out / part.split / part.name
        target.mkdir(parents=True)
        for shard in read_index(source):
            _link(source / shard["raw_data"]["basename"], target / shard["raw_data"]["basename"])
        shutil.copyfile(source / INDEX, target / INDEX)
        sides.append(read_json(source / SIDE_FILE))
    report: dict[str, Any] = {"schema": 1, "written": {}}
    for split in SPLITS:
        mine = [part for part in parts if part.split == split]
        written = merge_indices(out / split, [part.name for part in mine])
        keys = {key for part, side in zip(parts, sides) if part.split == split for key in side["keys"]}
        if not written == len(keys) == sum(map(len, mine)):
            raise HarnessError(
                f"{out / split}: {written} clips with {len(keys)} different keys, expected {sum(map(len, mine))}. "
                f"Delete {work} and run `dvc repro encode` again"
            )
        report["written"][split] = written
    count = sum(side["count"] for side in sides)
    mean = sum(side["total"] for side in sides) / count
    unknown = {caption: number for side in sides for caption, number in side["unknown_words"].items()}
    report["latents"] = {
        "mean": mean,
        "std": math.sqrt(max(sum(side["squares"] for side in sides) / count - mean**2, 0.0)),
        "low": min(side["low"] for side in sides),
        "high": max(side["high"] for side in sides),
    }
    report["captions_with_unknown_words"] = dict(sorted(unknown.items()))
    report["captions_truncated"] = sorted(key for side in sides for key in side["truncated"])
    return report


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
