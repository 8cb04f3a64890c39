"""Files: atomic writes, JSON that compares byte for byte, and digests of values, files, folders and code."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

_PACKAGE_PARENT = Path(__file__).resolve().parents[1]


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the whole new one, even after a crash. Makes parent folders.

    Raises:
        HarnessError: if the file cannot be written (disk full, no permission); the old file is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise HarnessError(
            f"{path}: cannot be written ({error.strerror or error}); free space or fix the permissions, then run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; or its folder could not be made
            temporary.unlink()


def _sync_directory(folder: Path) -> None:
    """Make a rename durable: the folder's own entry is data too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text as `atomic_write_bytes` does; line ends are kept as given."""
    atomic_write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON with sorted keys, indent 1 and a newline at the end, atomically.

    Raises:
        HarnessError: if a number is NaN or infinite (its path is named), or the file cannot be written.
    """
    try:
        text = json.dumps(obj, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        place = _first_not_finite(obj)
        raise HarnessError(f"{path}: {place or 'a value'} is not finite, which JSON cannot hold") from error
    atomic_write_text(path, text + "\n")


def _first_not_finite(obj: Any, place: str = "") -> str | None:
    if isinstance(obj, float) and not math.isfinite(obj):
        return f"{place or 'the value'} ({obj})"
    items = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, (list, tuple)) else ()
    for key, value in items:
        found = _first_not_finite(value, f"{place}.{key}" if place else str(key))
        if found:
            return found
    return None


def refuse_conflict(text: str, where: str) -> None:
    """Raise HarnessError where git has left both sides of a merge in a file."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            raise HarnessError(
                f"{where}, line {number}: a merge conflict. Keep one side (`git checkout --ours {where}`, or --theirs) "
                "or merge by hand, then run the same command again"
            )


_KINDS = {dict: "an object", list: "a list", str: "a string"}
_REMEDY = "delete it and run the stage that writes it again, or restore it (`git checkout`, `dvc checkout`)"


def read_json(path: str | os.PathLike[str], *, keys: Iterable[str] = (), kind: type = dict) -> Any:
    """Read a JSON file that holds an object with at least these keys (or a value of another kind).

    Raises:
        HarnessError: if the file is missing, is not JSON, or holds something else.
    """
    content = _parsed(path)
    if not isinstance(content, kind):
        raise HarnessError(f"{path}: holds {content!r:.40}, expected {_KINDS[kind]}; {_REMEDY}")
    if missing := [key for key in keys if key not in content]:
        raise HarnessError(f"{path}: has no {', '.join(missing)}; {_REMEDY}")
    return content


def _parsed(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: missing; run the stage that writes it (`make repro` runs all of them)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    except json.JSONDecodeError as error:
        raise HarnessError(
            f"{path}: not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); {_REMEDY}"
        ) from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, hex.

    Raises:
        HarnessError: if the file is missing or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror})") from error


def digest(obj: Any) -> str:
    """SHA-256 (hex) of a JSON-like value in canonical form: key order does not matter, tuples are lists."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def directory_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) over the relative names and contents of all files of a folder.

    Raises:
        HarnessError: if the folder is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder; run the stage that writes it (`make repro` runs all of them)")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return digest({file.relative_to(folder).as_posix(): sha256_file(file) for file in files})


def code_digest(paths: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 (hex) of what Python files do: over their syntax trees without docstrings, so comments do not count.

    Folders stand for all `.py` files below them. A file counts under its path in this project, wherever that lies.

    Raises:
        HarnessError: if a path is missing or is not valid Python.
    """
    trees: dict[str, str] = {}
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            trees[_project_name(file)] = ast.dump(_without_docstrings(_parse(file)))
    return digest(trees)


def _project_name(file: Path) -> str:
    file = file.resolve()
    return file.relative_to(_PACKAGE_PARENT).as_posix() if file.is_relative_to(_PACKAGE_PARENT) else file.name


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read ({error.strerror})") from error
    except (SyntaxError, ValueError) as error:
        raise HarnessError(f"{file}: not valid Python ({error})") from error


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                    node.body = rest
    return tree
