"""What a run was: settings, inputs, code, machine, cost. Written once, when the run is complete."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.io import sha256_file

PACKAGES = ("torch", "mosaicml", "mosaicml-streaming", "diffusers", "transformers", "numpy", "safetensors")
LOCK = "requirements.lock"
CODE = ("harness", "experiments/*.yaml", "configs", "params.yaml", "dvc.yaml")  # what decides what a run does


def git_state(root: Path) -> dict[str, Any]:
    """Commit, whether what runs differs from it, and the SHA-256 of the difference (`code_diff`); None where there is
    no repository.
    """
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "diff_sha256": None}
    diff = code_diff(root)
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(diff),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }


def code_diff(root: Path) -> bytes:
    """How code and settings differ from the commit, as a patch for `git apply`; new files included. Empty if they do
    not, or where there is no repository.

    Results are left out: they change while the pipeline runs.
    """
    patch = _git(root, "diff", "--binary", "HEAD", "--", *CODE) or b""
    for name in sorted(
        (_git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *CODE) or b"").split(b"\0")
    ):
        if name:  # `diff` knows nothing of files that were never added
            patch += _git(root, "diff", "--binary", "--no-index", "--", "/dev/null", name.decode(), differs=True) or b""
    return patch


def _git(root: Path, *arguments: str, differs: bool = False) -> bytes | None:
    """Output of git, or None if it fails; with `differs`, status 1 only says that there is a difference."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode in ((0, 1) if differs else (0,)) else None


def package_versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def surroundings(root: Path) -> dict[str, Any]:
    """The code and packages a run is made with."""
    lock = root / LOCK
    return {
        "git": git_state(root),
        "lock_sha256": sha256_file(lock) if lock.is_file() else None,
        "packages": {"python": platform.python_version(), **package_versions()},
    }


def build_manifest(
    *,
    fingerprint: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    parents: list[dict[str, Any]],
    surroundings: Mapping[str, Any],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest without what belongs to one copy of the run (`target`, `command`, `ad_hoc`)."""
    return {
        "schema": 1,
        "fingerprint": fingerprint,
        "config": dict(config),
        "inputs": dict(inputs),
        "parents": parents,
        **surroundings,
        **measured,
    }
