"""What one result claims to come from, claim by claim: settings, data, weights, code, packages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from harness.comparison.declaration import flatten
from harness.config.load import resolve_target, structure
from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.evaluation.own_teacher import teacher_motion
from harness.io import digest, read_json, sha256_file
from harness.reference.signals import HISTORY, MANIFEST, read_run
from harness.training.fingerprint import fingerprint, run_settings, training_code
from harness.training.inputs import digest_of, input_folders, monitors
from harness.training.manifest import LOCK, package_versions

TEACHER_MOTION = "teacher_motion"  # among a run's inputs
Outcome = Literal["ok", "mismatch", "missing", "note"]
Problems = Iterator[tuple[Outcome, str]]


@frozen(kw_only=True)
class Check:
    """One claim of one subject. `missing`: what it is about is not here, so it could not be checked."""

    subject: str
    claim: str
    outcome: Outcome
    detail: str = ""


class Digests:
    """Digests of folders and files, each computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Callable[[Path], str], Path], str] = {}

    def __call__(self, digest: Callable[[Path], str], path: Path) -> str:
        """`digest(path)`, remembered."""
        key = (digest, path)
        if key not in self._known:
            self._known[key] = digest(path)
        return self._known[key]


def check_result(target: str, folder: Path, root: Path, digests: Digests) -> Iterator[Check]:
    """All claims of a run's manifest.

    target   the declared target, or the name of an ad hoc run
    folder   with its manifest and tables
    """
    try:
        manifest = read_json(folder / MANIFEST)
        config = structure(RunConfig, manifest["config"], str(folder / MANIFEST), "config")
    except HarnessError as error:
        yield Check(subject=target, claim="config", outcome="mismatch", detail=str(error))
        return
    except (KeyError, TypeError):
        text = f"{folder / MANIFEST}: no `config`; train the run again"
        yield Check(subject=target, claim="config", outcome="mismatch", detail=text)
        return
    claims: dict[str, Problems] = {
        "config": _config(target, manifest, config, root),
        "inputs": _inputs(manifest, config, root, digests),
        "parents": _parents(manifest, root),
        "code": _code(manifest, config, root),
        "packages": _packages(manifest, root),
        "tables": _tables(folder, manifest),
    }
    if "imported" in manifest:  # no data was read, no code of training ran, no row was written
        kept = {claim: problems for claim, problems in claims.items() if claim not in ("inputs", "code", "tables")}
        claims = {**kept, "weights": _imported(target, manifest, root, digests)}
    for claim, problems in claims.items():
        found = [Check(subject=target, claim=claim, outcome=outcome, detail=text) for outcome, text in problems]
        yield from found or [Check(subject=target, claim=claim, outcome="ok")]


def _config(target: str, manifest: Mapping[str, Any], config: RunConfig, root: Path) -> Problems:
    """The recorded settings against what the target's declaration gives now."""
    if manifest.get("ad_hoc"):
        return
    try:
        declared = run_settings(resolve_target(target, root))
    except HarnessError as error:
        yield "mismatch", f"the declaration of {target} is broken or gone: {error}"
        return
    was, now = flatten(run_settings(config)), flatten(declared)
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            yield "mismatch", f"{key}: trained with {was.get(key)!r}, declared now {now.get(key)!r}"


def _inputs(manifest: Mapping[str, Any], config: RunConfig, root: Path, digests: Digests) -> Problems:
    """The digests of data and weights against what lies on disk."""
    recorded = dict(manifest.get("inputs", {}))
    yield from _teacher_motion(recorded.pop(TEACHER_MOTION, None), config, root)
    folders = input_folders(config, root)
    for name in sorted(recorded.keys() | folders.keys()):
        folder = folders.get(name)
        if folder is None or name not in recorded:
            here = "recorded, but not read by such a run" if folder is None else "read by such a run, but not recorded"
            yield "mismatch", f"{name}: {here}"
        elif not folder.is_dir():
            yield "missing", f"{folder} is not here"
        elif (found := digests(digest_of(name), folder)) != recorded[name]:
            yield "mismatch", f"{name}: {folder} is {found[:12]}, the run read {recorded[name][:12]}"


def _teacher_motion(recorded: str | None, config: RunConfig, root: Path) -> Problems:
    """The one input that is no folder: the motion on the teacher's card, which the run's monitor read."""
    try:
        motion = teacher_motion(config, root / "results") if monitors(config) else None
    except HarnessError as error:
        yield "mismatch", f"{TEACHER_MOTION}: {error}"
        return
    found = None if motion is None else digest(motion)
    if found != recorded:
        where = f"`late_motion` on the card of {config.teacher}"
        yield "mismatch", f"{TEACHER_MOTION}: {where} is not what the run's monitor read; run `dvc repro`"


def _imported(target: str, manifest: Mapping[str, Any], root: Path, digests: Digests) -> Problems:
    """The sums of an imported network's files, and the fingerprint over them, against the files on disk."""
    try:
        recorded = dict(manifest["imported"]["written"])
    except (KeyError, TypeError, ValueError):
        yield "mismatch", f"no sums of the imported files (imported.written); run `dvc repro {target}`"
        return
    if manifest.get("fingerprint") != digest({"imported": recorded}):
        yield "mismatch", "the fingerprint is not that of the recorded sums"
    folder = root / "checkpoints" / target / "model"
    if not folder.is_dir():
        yield "missing", f"{folder} is not here"
        return
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted(recorded.keys() | here.keys()):
        if name not in here or name not in recorded:
            yield "mismatch", f"{folder / name}: {'is gone' if name in recorded else 'was not imported'}"
        elif (found := digests(sha256_file, here[name])) != recorded[name]:
            yield "mismatch", f"{folder / name}: is {found[:12]}, imported was {str(recorded[name])[:12]}"


def _parents(manifest: Mapping[str, Any], root: Path) -> Problems:
    """The runs whose weights it started from or was taught by, against the results of these runs now."""
    for parent in manifest.get("parents", []):
        path = root / "results" / parent["target"] / MANIFEST
        if not path.is_file():
            yield "missing", f"{path} is not here"
        elif (found := read_json(path).get("fingerprint")) != parent.get("fingerprint"):
            was = str(parent.get("fingerprint"))[:12]
            yield "mismatch", f"{parent['target']}: is run {str(found)[:12]} now, this one was made from run {was}"


def _code(manifest: Mapping[str, Any], config: RunConfig, root: Path) -> Problems:
    """The run's fingerprint against the one that its own settings and inputs have with the code that is here."""
    recorded = manifest.get("fingerprint")
    found = fingerprint(config, manifest.get("inputs", {}), manifest.get("world_size", 1))
    if found != recorded:
        commit = (manifest.get("git") or {}).get("commit")
        changed = _changed(root, commit, training_code(config))
        other = _other_versions(manifest.get("packages", {}), package_versions())
        why = [f"since commit {str(commit)[:12]}: {', '.join(changed)}"] if changed else []
        why += [f"packages: {', '.join(other)}"] if other else []
        yield "mismatch", f"the code that is here makes another run of it ({'; '.join(why) or 'no repository to ask'})"
    if (manifest.get("git") or {}).get("dirty"):
        yield "note", f"made with edits after commit {str(manifest['git']['commit'])[:12]}"


def _changed(root: Path, commit: str | None, files: list[Path]) -> list[str]:
    """Which of some files differ from a commit, as far as git knows."""
    if not commit:
        return []
    command = ["git", "-C", str(root), "diff", "--name-only", commit, "--", *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def _packages(manifest: Mapping[str, Any], root: Path) -> Problems:
    """The recorded versions against those that the lock pins."""
    recorded, lock = manifest.get("packages", {}), root / LOCK
    if not lock.is_file():
        yield "missing", f"{lock} is not here"
        return
    other = _other_versions(recorded, pinned_versions(lock.read_text(encoding="utf-8")))
    if other:
        yield "mismatch", f"{LOCK} has other versions: {', '.join(other)}"
    elif manifest.get("lock_sha256") != sha256_file(lock):
        yield "note", f"{LOCK} has changed since, but not the packages that numbers depend on"


def _other_versions(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [f"{name} {was[name]} → {now[name]}" for name in sorted(was) if name in now and was[name] != now[name]]


def pinned_versions(lock: str) -> dict[str, str]:
    """Name → version of every package of a requirements lock."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, flags=re.MULTILINE))


def _tables(folder: Path, manifest: Mapping[str, Any]) -> Problems:
    """Whether the history is that of a run with as many updates, and the best quality is in its table."""
    try:
        signals = read_run(folder, folder.name).signals
    except HarnessError as error:
        yield "mismatch", str(error)
        return
    for role, updates in manifest.get("updates", {}).items():
        last = max((int(s.clock[-1]) for name, s in signals.items() if name.startswith(f"{role}/")), default=0)
        if last != updates:
            yield "mismatch", f"{folder / HISTORY}: ends at {role} update {last}, the manifest says {updates}"
    best = manifest.get("best")
    quality = signals.get(f"quality/{best['metric']}") if best else None
    if best and (quality is None or best["value"] not in quality.value[quality.clock == best["update"]]):
        yield "mismatch", f"{folder}: the best {best['metric']} of the manifest is not in quality.csv"
