"""Reading what runs left in `results/`, and refusing what cannot be compared."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from harness.comparison.declaration import Declaration, flatten
from harness.errors import HarnessError
from harness.io import read_json

REQUIRED_MODELS = {
    "run": ("student", "init"),
    "causal_sft": ("causal_sft", "causal_sft_euler", "causal_sft_cfg"),
    "teacher": ("real", "codec", "teacher", "teacher_cut", "teacher_cut_cfg"),
}
Row = dict[str, float]


@frozen(kw_only=True)
class Result:
    """The files of one target. `quality` holds the monitor's rows: update, teraflops, device_seconds, metrics; `timing`
    the measured seconds of each model of the card.
    """

    target: str
    folder: Path
    cards: dict[str, Any]
    manifest: dict[str, Any]
    timing: dict[str, Any] = field(factory=dict)
    quality: list[Row] = field(factory=list)
    history: list[Row] = field(factory=list)

    def metric(self, model: str, name: str) -> float | None:
        """A metric's value on a model's card, or None when the card lacks it."""
        entry = self.cards["models"].get(model, {}).get("metrics", {}).get(name)
        return None if entry is None or entry["value"] is None else float(entry["value"])


@frozen(kw_only=True)
class Results:
    """Everything that one comparison reads."""

    arms: dict[str, dict[int, Result]]  # arm → seed → result
    causal_sft: dict[int, Result]
    teacher: Result

    def __iter__(self) -> Iterator[Result]:
        """All results: the arms', then the baselines'."""
        for seeds in self.arms.values():
            yield from seeds.values()
        yield from self.causal_sft.values()
        yield self.teacher


def read_results(declaration: Declaration, root: Path) -> Results:
    """Read all that a declared comparison needs.

    Raises:
        HarnessError: listing every missing or broken file, or every reason why the results do not compare.
    """
    read = _Reader(root / "results")
    arms = {
        arm: {seed: read(declaration.target(arm, seed), "run") for seed in declaration.seeds}
        for arm in declaration.arms
    }
    sft = {seed: read(f"causal_sft/seed{seed}", "causal_sft") for seed in declaration.seeds}
    teacher = read("teacher", "teacher")
    name = declaration.name
    again = f"run `dvc repro experiments/{name}/dvc.yaml`"
    _refuse(read.problems, f"comparison of {name}: results are missing or broken; {again}")
    results = Results(arms=arms, causal_sft=sft, teacher=teacher)
    problems = [
        *ad_hoc_runs(results),
        *stale_runs(declaration, results.arms),
        *protocol_differences(results),
        *uncounted_parents(results.arms),
        *twins(results.arms),
    ]
    _refuse(problems, f"comparison of {name} refused; {again} to make the results anew")
    return results


def ad_hoc_runs(results: Iterable[Result]) -> list[str]:
    """Runs whose settings were given by hand: no declaration says what they are."""
    return [
        f"{result.folder}/manifest.json: ad_hoc: the run was started with its own settings; "
        "declare them as an arm of an experiment"
        for result in results
        if result.manifest.get("ad_hoc")
    ]


def stale_runs(declaration: Declaration, arms: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """Runs whose recorded configuration is not what the declaration says now."""
    problems = []
    for arm, seeds in arms.items():
        declared = {**flatten(declaration.fixed), **flatten(declaration.arms[arm].set)}
        for seed, result in seeds.items():
            config = flatten(result.manifest.get("config", {}))
            for key, value in {**declared, "seed": seed}.items():
                if config.get(key) != (list(value) if isinstance(value, tuple) else value):
                    problems.append(
                        f"{result.folder}/manifest.json: config.{key}: trained with {config.get(key)!r}, "
                        f"declared {value!r}"
                    )
    return problems


def protocol_differences(results: Iterable[Result]) -> list[str]:
    """Keys in which the evaluation protocols of the cards differ from the first card's."""
    results = list(results)
    first, problems = results[0], []
    reference = flatten(first.cards["protocol"])
    for result in results[1:]:
        protocol = flatten(result.cards["protocol"])
        for key in sorted(set(reference) | set(protocol)):
            if reference.get(key) != protocol.get(key):
                problems.append(
                    f"{result.folder}/cards.json: protocol.{key}: {protocol.get(key)!r}, "
                    f"but {reference.get(key)!r} in {first.folder}/cards.json; such numbers do not compare"
                )
    return problems


def uncounted_parents(arms: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """Runs that started from a causal SFT which their manifest does not list: its compute could not be counted."""
    problems = []
    for result in (result for seeds in arms.values() for result in seeds.values()):
        manifest = result.manifest
        listed = {parent["target"]: parent.get("compute") for parent in manifest.get("parents", [])}
        unknown = [target for target, compute in listed.items() if not compute]
        if manifest.get("config", {}).get("init", {}).get("kind") == "causal_sft":
            unknown += [] if any(target.startswith("causal_sft/") for target in listed) else ["causal_sft"]
        if unknown:
            problems.append(
                f"{result.folder}/manifest.json: parents: the compute of {', '.join(unknown)} is not recorded"
            )
    return problems


def twins(arms: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """Runs of different arms with one fingerprint: the same run twice, so there is nothing to compare."""
    seen: dict[str, str] = {}
    problems = []
    for result in (result for seeds in arms.values() for result in seeds.values()):
        twin = seen.setdefault(result.manifest.get("fingerprint", result.target), result.target)
        if twin != result.target:
            problems.append(
                f"{result.folder}/manifest.json: fingerprint: the same run as {twin}; the arms do not differ"
            )
    return problems


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV file; cells that are not finite numbers are left out of their row.

    Raises:
        HarnessError: if the file is missing or is not text.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [_numbers(row) for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: missing; run the stage that writes it") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HarnessError(f"{path}: cannot be read ({error})") from error


def _numbers(row: Mapping[str, str | None]) -> Row:
    numbers: Row = {}
    for key, text in row.items():
        try:
            value = float(text or "")
        except (TypeError, ValueError):
            continue
        if math.isfinite(value):
            numbers[key] = value
    return numbers


class _Reader:
    """Reads targets and collects what is wrong, so that all of it is said at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[str] = []

    def __call__(self, target: str, kind: str) -> Result:
        folder = self.folder / target
        cards = self._try(lambda: read_json(folder / "cards.json"), {})
        if cards:
            cards = self._checked(folder, cards, kind)
        return Result(
            target=target,
            folder=folder,
            cards=cards,
            manifest=self._try(lambda: read_json(folder / "manifest.json"), {}),
            timing=self._try(lambda: _times(folder / "timing.json"), {}),
            quality=self._try(lambda: read_rows(folder / "quality.csv"), []) if kind == "run" else [],
        )

    def _try(self, read: Any, empty: Any) -> Any:
        try:
            return read()
        except HarnessError as error:
            self.problems.append(str(error))
            return empty

    def _checked(self, folder: Path, cards: Any, kind: str) -> Any:
        if not isinstance(cards, dict) or not isinstance(cards.get("models"), dict) or "protocol" not in cards:
            self.problems.append(f"{folder}/cards.json: no `models` and `protocol`; evaluate the target again")
            return {}
        missing = [name for name in REQUIRED_MODELS[kind] if name not in cards["models"]]
        if missing:
            self.problems.append(
                f"{folder}/cards.json: models: {', '.join(missing)} missing; evaluate the target again"
            )
        return cards


def _times(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise HarnessError(f"{path}: no `models`; evaluate the target again")
    return content["models"]


def _refuse(problems: list[str], headline: str) -> None:
    if problems:
        raise HarnessError("\n".join([headline, *(f"  {problem}" for problem in problems)]))
