"""Files and folders that appear whole or not at all, and never in the place of what is not ours."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import HarnessError

ORIGIN = "origin.json"  # marks a folder that import or export wrote


def refuse_foreign(folder: Path) -> None:
    """Raise `HarnessError` if `folder` holds something that neither import nor export wrote: it would be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ORIGIN).is_file():
        raise HarnessError(
            f"{folder}: exists, and was not written by import or export (no {ORIGIN}): it is not replaced. "
            "Name another folder, or delete this one"
        )
    if folder.exists() and not folder.is_dir():
        raise HarnessError(f"{folder}: is a file, expected the name of a folder; name another")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; at the end it takes the place of `folder`, which stays as it was if anything fails.

    Raises:
        HarnessError: the disk is full or refuses.
    """
    with _disk_errors_named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        new, old = scratch / "new", scratch / "old"
        try:
            new.mkdir()
            yield new
            for path in (*new.rglob("*"), new):
                _sync(path)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            _sync(folder.parent)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name of a file to write; at the end it takes the place of `path`, which stays as it was if anything fails.

    Raises:
        HarnessError: the disk is full or refuses.
    """
    with _disk_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
        try:
            yield new
            _sync(new)
            os.replace(new, path)
            _sync(path.parent)
        finally:
            new.unlink(missing_ok=True)


def link_or_copy(source: Path, destination: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such thing; parent folders are made."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), destination)
    except OSError:
        shutil.copyfile(source, destination)


@contextlib.contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HarnessError(
            f"{path}: cannot be written ({error.strerror or error}); free space or fix the permissions, and run again"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
