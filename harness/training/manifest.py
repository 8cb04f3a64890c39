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


def git_state(root: Path) -> dict[str, Any]:
    """Commit, whether the code differs from it, the SHA-256 of the difference; None where there is no repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "diff_sha256": None}
    diff = _git(root, "diff", "HEAD", "--", "harness") or b""
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(diff),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    return {name: metadata.version(name) for name in PACKAGES}


def processor_name() -> str:
    """The model of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
