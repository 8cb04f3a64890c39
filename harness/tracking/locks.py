"""What `dvc.lock` says that results were made from. Paths in it are from the project's root (all stages run there)."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.config.documents import read_yaml
from harness.errors import HarnessError

PATHS = ("deps", "outs")


@frozen(kw_only=True)
class Locked:
    """A path that a stage read or wrote, and its md5 as DVC wrote it down (`….dir` for a folder)."""

    stage: str
    path: str
    md5: str


@frozen(kw_only=True)
class LockedParam:
    """A setting that a stage depends on, as it was."""

    stage: str
    file: str
    key: str
    value: Any


def lock_files(root: Path) -> list[Path]:
    """The pipeline's own lock, then each experiment's."""
    found = [root / "dvc.lock", *sorted(root.glob("experiments/*/dvc.lock"))]
    return [path for path in found if path.is_file()]


def read_lock(lock: Path) -> dict[str, dict[str, Any]]:
    """Stages of a lock by name.

    Raises:
        HarnessError: it is not a lock.
    """
    stages = read_yaml(lock).get("stages")
    if not isinstance(stages, dict):
        raise HarnessError(f"{lock}: no `stages`; expected a file that DVC wrote. Get it back with git")
    for name, entry in stages.items():
        if not _is_stage(entry):
            raise HarnessError(
                f"{lock}: stage {name} is damaged; expected the `deps`, `outs` and `params` that DVC writes. Get the "
                "file back with git"
            )
    return stages


def _is_stage(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    lists, params = [entry.get(kind, []) for kind in PATHS], entry.get("params", {})
    return (
        all(isinstance(items, list) and all(map(_is_path, items)) for items in lists)
        and isinstance(params, dict)
        and all(isinstance(values, dict) for values in params.values())
    )


def _is_path(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("path"), str) and isinstance(item.get("md5", ""), str)


def locked_paths(stages: Mapping[str, Mapping[str, Any]], kinds: Sequence[str] = PATHS) -> Iterator[Locked]:
    """Everything that the stages of a lock read (`deps`) and wrote (`outs`)."""
    for stage, entry in stages.items():
        for item in (item for kind in kinds for item in entry.get(kind, [])):
            if "md5" in item:
                yield Locked(stage=stage, path=item["path"], md5=item["md5"])


def locked_params(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[LockedParam]:
    """All settings that the stages of a lock depend on."""
    for stage, entry in stages.items():
        for file, values in entry.get("params", {}).items():
            for key, value in values.items():
                yield LockedParam(stage=stage, file=file, key=key, value=value)


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; None if there is none. Keys may hold dots themselves, as DVC allows."""
    if key in values:
        return values[key]
    head, dot, rest = key.partition(".")
    while dot:
        if isinstance(values.get(head), Mapping) and (found := lookup(values[head], rest)) is not None:
            return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def dvc_md5(path: Path, ignored: tuple[str, ...] = ()) -> str:
    """A file's md5, or that of a folder as DVC makes it: over the list of its files, sorted, as JSON, with `.dir`."""
    if path.is_file():
        return _md5(path)
    files = [file for file in path.rglob("*") if file.is_file() and not _is_ignored(file.relative_to(path), ignored)]
    listed = [
        {"md5": _md5(file), "relpath": file.relative_to(path).as_posix()}
        for file in sorted(files, key=lambda file: file.relative_to(path).as_posix())
    ]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def ignored_names(root: Path) -> tuple[str, ...]:
    """The patterns of `.dvcignore`."""
    path = root / ".dvcignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _is_ignored(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(part, pattern) for part in path.parts for pattern in patterns)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
