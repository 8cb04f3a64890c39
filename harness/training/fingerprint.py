"""The identity of a run: its settings, its inputs, and the code that computes it. Equal fingerprints, equal weights."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.config.load import to_dict
from harness.config.schema import RunConfig
from harness.io import code_digest, digest
from harness.training.inputs import monitors
from harness.training.manifest import package_versions

PACKAGE = Path(__file__).resolve().parents[1]
METHODS = {name: f"harness.methods.{name}" for name in ("sft", "causal_sft", "dmd")}
LOOP = ("harness.training.assembly", "harness.training.method_builder", "harness.data.loader")
# They choose what is trained on and which weights are given out; what they import besides changes no number.
ALONE = ("harness.training.session", "harness.training.weights")
MONITOR = "harness.evaluation.monitor"
# How settings are read, data kept, problems told: what these decide is in the settings or in the digests of the inputs.
NOT_NUMBERS = {
    "harness.errors",
    "harness.io",
    "harness.config.documents",
    "harness.config.load",
    "harness.config.schema",
    "harness.config.structure",
    "harness.data.mds",
    "harness.data.problems",
    "harness.data.shared_memory",
    "harness.training.inputs",
    "harness.training.state_files",
}
# Settings that change no number.
NOT_SETTINGS = ("save_every_batches", "keep_states", "teacher", "critic", "data", "prompts")


def run_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a run depends on: all but those of the other methods, of what is turned off, and those that
    change no number.
    """
    settings = to_dict(config)
    for name in (*METHODS, *NOT_SETTINGS):
        if name != config.method:
            settings.pop(name)
    if not monitors(config):
        settings.pop("monitor")
        settings.pop("evaluate_frames")
    if not config.long_tuning.enabled:
        settings.pop("long_tuning")
    if config.lora.rank is None:
        settings.pop("lora")
    settings["init"].pop("path")
    return settings


def imported_modules(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it (by its syntax: nothing is executed)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("harness.") and module_file(name).is_file()}


def module_file(name: str) -> Path:
    """The file of a module of this project."""
    return PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")


def import_closure(roots: Iterable[str], without: Iterable[str] = ()) -> list[Path]:
    """Files of the modules and of everything of ours that they import, directly or not; `without` is not entered."""
    seen, waiting = set(without), [name for name in roots if module_file(name).is_file()]
    found: list[str] = []
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found.append(name)
        waiting += imported_modules(module_file(name))
    return [module_file(name) for name in sorted(found)]


def training_code(config: RunConfig) -> list[Path]:
    """The files whose code decides the numbers of a run: the loop, its method, and what its monitor measures with."""
    others = {module for name, module in METHODS.items() if name != config.method}
    roots = [*LOOP, METHODS[config.method], *([MONITOR] if monitors(config) else [])]
    closure = import_closure(roots, without=NOT_NUMBERS | others | set(ALONE))
    return sorted({*closure, *map(module_file, ALONE)})


def fingerprint(config: RunConfig, inputs: Mapping[str, str], world_size: int = 1) -> str:
    """SHA-256 (hex) over settings, input digests, code, the packages that numbers depend on, and the number of
    processes (the order of sums depends on it).
    """
    return digest(
        {
            "settings": run_settings(config),
            "inputs": dict(inputs),
            "code": code_digest(training_code(config)),
            "world_size": world_size,
            "packages": package_versions(),
        }
    )
