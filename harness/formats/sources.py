"""Where a checkpoint comes from: a path here, or a repository of the Hugging Face Hub; and the sums of its files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.errors import HarnessError
from harness.io import digest, sha256_file

# `owner/name`, or a file in it: `owner/name/folder/file.pt`
_HUB = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<file>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt"]  # without pickles and pictures
Download = Callable[..., str]


@frozen
class Source:
    """A checkpoint on this disk.

    name       as the user gave it
    revision   the commit of the Hub's repository; None for a path
    """

    name: str
    path: Path
    revision: str | None = None


def locate(
    name: str, revision: str | None = None, download: Download | None = None, option: str = "--revision"
) -> Source:
    """Find a source, fetching it from the Hub if nothing here has that name.

    download   called as `huggingface_hub.snapshot_download`; None for that function
    option     that gave the revision, for messages

    Raises:
        HarnessError: it is neither here nor on the Hub, cannot be fetched, or a revision of a path is wanted.
    """
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise HarnessError(f"{name}: {option} {revision}: a file or folder here has no revision; leave it out")
        return Source(name, path)
    match = _HUB.fullmatch(name)
    if match is None:
        raise HarnessError(f"{name}: no such file or folder, and no Hub id (`owner/name`, or `owner/name/file.pt`)")
    folder = _fetch(name, match["repository"], match["file"], revision, download or _snapshot_download)
    path = folder / match["file"] if match["file"] else folder
    if not path.exists():
        raise HarnessError(f"{name}: the repository {match['repository']} has no file {match['file']}")
    return Source(name, path, folder.name if _COMMIT.fullmatch(folder.name) else revision)


def _fetch(name: str, repository: str, file: str | None, revision: str | None, download: Download) -> Path:
    try:
        return Path(download(repository, revision=revision, allow_patterns=[file] if file else _PATTERNS))
    except (OSError, ValueError) as error:  # the Hub's own errors are of these kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise HarnessError(
            f"{name}: no such file or folder here, and fetching it from the Hugging Face Hub failed ({reason}). Check "
            "the name, the revision and the network; a closed repository needs `huggingface-cli login`"
        ) from error


def _snapshot_download(repository: str, **options: object) -> str:
    from huggingface_hub import snapshot_download  # slow to import, and rarely needed

    return snapshot_download(repository, **options)  # type: ignore[arg-type]


def file_sums(files: Iterable[Path], root: Path) -> dict[str, str]:
    """SHA-256 of each file, by its name relative to `root`."""
    return {file.relative_to(root).as_posix(): sha256_file(file) for file in sorted(files)}


def total_sum(sums: Mapping[str, str]) -> str:
    """One sum for a source: that of its file, or over the names and sums of several."""
    return next(iter(sums.values())) if len(sums) == 1 else digest(dict(sums))


def check_sum(sums: Mapping[str, str], expected: str | None, name: str, option: str = "--sha256") -> None:
    """Raise `HarnessError` unless the source has the sum that `option` gave (None: whatever it has)."""
    found = total_sum(sums)
    if expected is not None and found != expected.lower():
        files = "".join(f"\n  {sum_}  {file}" for file, sum_ in sums.items())
        raise HarnessError(
            f"{name}: its SHA-256 is {found}, {option} is {expected}: it is damaged or another version. Nothing was "
            f"written. Its files:{files}"
        )


def pins(origin: Mapping[str, Any]) -> list[str]:
    """The options of `import` that admit only what an `origin.json` says was read: the source, and the adapter."""
    found = []
    for prefix, part in (("", origin), ("lora-", origin["lora"])):
        if part is not None:
            found += [f"--{prefix}revision", part["revision"]] if part["revision"] else []
            found += [f"--{prefix}sha256", total_sum(part["files"])]
    return found
