"""Runs that are used by name: a declared target, or an ad hoc run, `runs/NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.config.load import resolve_target, split_target, structure
from harness.config.schema import RunConfig
from harness.errors import HarnessError
from harness.io import read_json

AD_HOC = Path("runs")
MANIFEST = "manifest.json"
EVALUATION = "evaluation"  # of an ad hoc run


@frozen(kw_only=True)
class NamedRun:
    """A run: its configuration, and where its weights and its tables are, relative to the project's root. `name` is the
    target, or `runs/NAME`; `fingerprint` is of an ad hoc run as it was found.
    """

    name: str
    config: RunConfig
    fingerprint: str | None
    checkpoints: Path
    results: Path

    @property
    def is_ad_hoc(self) -> bool:
        """Whether it was started with settings of its own; DVC then knows nothing of it."""
        return is_ad_hoc(self.name)

    @property
    def evaluation(self) -> Path:
        """Where its card and clips are."""
        return evaluation_folder(self.name)


def is_ad_hoc(name: str) -> bool:
    """Whether a name is that of an ad hoc run, `runs/NAME`."""
    return Path(name).parent == AD_HOC


def places(name: str) -> tuple[Path, Path]:
    """Where the weights and the tables of a target, or of `runs/NAME`, are."""
    if is_ad_hoc(name):
        return Path(name) / "checkpoints", Path(name)
    return Path("checkpoints") / name, Path("results") / name


def evaluation_folder(name: str) -> Path:
    """Where the card and clips of a target or of `runs/NAME` are. An ad hoc run's lie apart from its tables, which the
    next run of its name replaces.
    """
    results = places(name)[1]
    return results / EVALUATION if is_ad_hoc(name) else results


def is_card_of(card: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether a card is of the run with this manifest. Only the card of an ad hoc run can be of an earlier one; it says
    which.
    """
    return card.get("run", manifest.get("fingerprint")) == manifest.get("fingerprint")


def run_of_weights(folder: Path, root: Path) -> str | None:
    """The name of the run in whose checkpoints a model folder lies; None for a folder elsewhere."""
    place, checkpoints = folder.resolve(), (root / "checkpoints").resolve()
    if place.is_relative_to(checkpoints):
        return place.relative_to(checkpoints).parent.as_posix()
    run = place.parent.parent
    return f"{AD_HOC}/{run.name}" if place.parent == (root / AD_HOC).resolve() / run.name / "checkpoints" else None


def run_name(word: str, root: Path) -> str:
    """The name of the run that is meant: a target, or `runs/NAME`, also by NAME alone where that is no target."""
    name = Path(word).as_posix()
    short = "/" not in name and (root / AD_HOC / name / MANIFEST).is_file() and not _is_target(name)
    return f"{AD_HOC}/{name}" if short else name


def find_run(word: str, root: Path) -> NamedRun:
    """The run of a target, configured as declared, or a finished ad hoc run, configured as its manifest says.

    Raises:
        HarnessError: there is no such target or run, or its configuration is damaged or of another version.
    """
    name = run_name(word, root)
    checkpoints, results = places(name)
    config, fingerprint = _of_manifest(name, root) if is_ad_hoc(name) else (_declared(name, root), None)
    return NamedRun(name=name, config=config, fingerprint=fingerprint, checkpoints=checkpoints, results=results)


def _is_target(name: str) -> bool:
    try:
        split_target(name)
    except HarnessError:
        return False
    return True


def _declared(name: str, root: Path) -> RunConfig:
    try:
        split_target(name)
    except HarnessError as error:
        raise HarnessError(f"{error}; or an ad hoc run: {_ad_hoc_runs(root)}") from error
    return resolve_target(name, root)


def _of_manifest(name: str, root: Path) -> tuple[RunConfig, str]:
    path = root / name / MANIFEST
    if not path.is_file():
        raise HarnessError(
            f"{root / name}: no finished run there ({MANIFEST} is missing). There are: {_ad_hoc_runs(root)}"
        )
    manifest = read_json(path, keys=("config", "fingerprint"))
    try:
        return structure(RunConfig, manifest["config"], str(path), "config"), manifest["fingerprint"]
    except HarnessError as error:
        raise HarnessError(f"{error}\nThe run is of another version of the code: train it again") from error


def _ad_hoc_runs(root: Path) -> str:
    found = sorted(path.parent.name for path in (root / AD_HOC).glob(f"*/{MANIFEST}"))
    return ", ".join(f"{AD_HOC}/{name}" for name in found) or (
        "none yet; `composer harness/train.py CONFIG.yaml --name NAME` makes one"
    )
