"""What two manifests say differently: settings, data, code, packages, machine: the likely reasons for other curves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.comparison.declaration import flatten

METHODS = ("sft", "causal_sft", "dmd")
NO_NUMBER = ("save_every_batches",)  # of the configuration: changes none
MACHINE = ("device", "threads", "world_size", "effective_batch", "flags")


@frozen
class Fact:
    """One difference: its kind, its key, and both sides in words."""

    kind: str  # config, data, code, package, machine
    key: str
    run: str
    reference: str


def differences(
    run: Mapping[str, Any], reference: Sequence[Mapping[str, Any]], root: Path = Path(".")
) -> tuple[Fact, ...]:
    """All that a run's manifest says otherwise than the reference's runs.

    Of several reference runs the one with the run's seed is taken, else the first: seeds differ in nothing but the seed
    and what was trained with it.
    """
    if not run or not reference:
        return ()
    seed = run.get("config", {}).get("seed")
    same_seed = [m for m in reference if m.get("config", {}).get("seed") == seed]
    other = (same_seed or reference)[0]
    return (
        *_config(run, other, len(reference) == 1),
        *_data(run, other if same_seed else None, reference),
        *_code(run, other, root),
        *_flat("package", run.get("packages"), other.get("packages")),
        *_flat("machine", {key: run.get(key) for key in MACHINE}, {key: other.get(key) for key in MACHINE}),
    )


def _config(run: Mapping[str, Any], other: Mapping[str, Any], with_seed: bool) -> Iterator[Fact]:
    own, theirs = run.get("config", {}), other.get("config", {})
    used = {own.get("method"), theirs.get("method")}
    for fact in _flat("config", own, theirs):
        section = fact.key.partition(".")[0]
        unused = section in METHODS and section not in used
        if not unused and section not in NO_NUMBER and (section != "seed" or with_seed):
            yield fact


def _flat(kind: str, own: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> Iterator[Fact]:
    a, b = flatten(own or {}), flatten(theirs or {})
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            yield Fact(kind, key, _word(a.get(key)), _word(b.get(key)))


def _data(
    run: Mapping[str, Any], same_seed: Mapping[str, Any] | None, reference: Sequence[Mapping[str, Any]]
) -> Iterator[Fact]:
    """Inputs whose digest is not the reference's. Weights that were trained with another seed are not compared."""
    own = run.get("inputs", {})
    theirs = [manifest.get("inputs", {}) for manifest in ([same_seed] if same_seed else reference)]
    for name in sorted(own.keys() | theirs[0].keys()):
        known = {inputs.get(name) for inputs in theirs}
        if own.get(name) not in known and (same_seed or len(known) == 1):
            yield Fact("data", name, _short(own.get(name)), _short(theirs[0].get(name)))


def _code(run: Mapping[str, Any], other: Mapping[str, Any], root: Path) -> Iterator[Fact]:
    own, theirs = run.get("git") or {}, other.get("git") or {}
    if own.get("commit") != theirs.get("commit"):
        changed = changed_files(root, own.get("commit"), theirs.get("commit"))
        if changed is None or changed:
            yield Fact("code", "commit", _short(own.get("commit")), _short(theirs.get("commit")))
        yield from (Fact("code", file, "differs between the commits", "") for file in changed or ())
    if own.get("diff_sha256") != theirs.get("diff_sha256"):
        yield Fact("code", "edits after the commit", _edits(own), _edits(theirs))
    if run.get("lock_sha256") != other.get("lock_sha256"):
        yield Fact("package", "requirements.lock", _short(run.get("lock_sha256")), _short(other.get("lock_sha256")))


def changed_files(
    root: Path, old: str | None, new: str | None, among: Iterable[str] = ("harness",)
) -> list[str] | None:
    """Files that differ between two commits; None where git cannot tell (no repository, a commit that is not here)."""
    if not old or not new:
        return None
    command = ["git", "-C", str(root), "diff", "--name-only", old, new, "--", *among]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split() if done.returncode == 0 else None


def _edits(git: Mapping[str, Any]) -> str:
    if git.get("dirty") is None:
        return "unknown"
    return f"some (patch {_short(git.get('diff_sha256'))}, see diff.patch)" if git["dirty"] else "none"


def _word(value: Any) -> str:
    return "—" if value is None else str(value)


def _short(digest: Any) -> str:
    return "—" if digest is None else str(digest)[:12]
