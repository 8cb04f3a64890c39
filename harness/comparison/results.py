"""Reading what runs left in `results/`, and refusing what cannot be compared."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from harness.comparison.cards import REQUIRED_MODELS, card_problems
from harness.comparison.declaration import Declaration, flatten, is_long
from harness.config.load import resolve_target
from harness.config.structure import to_dict
from harness.errors import HarnessError
from harness.io import read_json

OTHERWISE = {  # what to do where evaluating again does not help
    "switch.at": ". A switch waits for the first block of the second half, and delays are counted to the end: if the "
    "arms have different blocks (rollout.frames_per_block, a given first frame), take an evaluate_frames in whose "
    "middle a block of each begins, or null"
}
MANIFEST_KEYS = ("config", "fingerprint", "compute", "updates")
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

    @property
    def given(self) -> list[Path]:
        """The images that the shown clips were given, one for each prompt; empty in text to video."""
        return [self.folder / file for file in self.cards.get("given", [])]

    def metric(self, model: str, name: str) -> float | None:
        """A metric's value on a model's card, or None when the card lacks it."""
        entry = self.cards["models"].get(model, {}).get("metrics", {}).get(name)
        return None if entry is None or entry["value"] is None else float(entry["value"])

    def long(self, model: str) -> dict[str, Any] | None:
        """The long evaluation of a model, or None where it was not made."""
        return self.cards["models"].get(model, {}).get("long")


@frozen(kw_only=True)
class Results:
    """Everything that one comparison reads."""

    arms: dict[str, dict[int, Result]]  # arm → seed → result
    causal_sft: dict[int, Result]  # empty where there is no such baseline
    teachers: dict[str, Result]  # arm → its own teacher; arms may share one
    implied: tuple[str, ...] = ()  # settings in which arms differ because of a varied one

    def __iter__(self) -> Iterator[Result]:
        """All results: the arms', then the baselines'."""
        for seeds in self.arms.values():
            yield from seeds.values()
        yield from self.causal_sft.values()
        yield from self.distinct_teachers.values()

    @property
    def distinct_teachers(self) -> dict[str, Result]:
        """The different teachers by their targets, in the order of the arms."""
        return {teacher.target: teacher for teacher in self.teachers.values()}

    def taught_by(self, target: str) -> list[str]:
        """The arms that a teacher teaches."""
        return [arm for arm, teacher in self.teachers.items() if teacher.target == target]

    def shared(self, arm: str) -> frozenset[str]:
        """Targets whose cost is nobody's, since every run of the arm starts after them: its own teacher, and the runs
        that this one started from.
        """
        teacher = self.teachers[arm]
        return frozenset([teacher.target, *(parent["target"] for parent in teacher.manifest.get("parents", []))])


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
    group = declaration.baselines.causal_sft
    sft = {} if group is None else {seed: read(f"{group}/seed{seed}", "causal_sft") for seed in declaration.seeds}
    own = {arm: declaration.baselines.teacher_of(arm) for arm in declaration.arms}
    teachers = {target: read(target, "teacher") for target in dict.fromkeys(own.values())}
    name = declaration.name
    again = f"run `dvc repro experiments/{name}/dvc.yaml`"
    _refuse(read.problems, f"comparison of {name}: results are missing or broken; {again}")
    results = Results(
        arms=arms,
        causal_sft=sft,
        teachers={arm: teachers[target] for arm, target in own.items()},
        implied=implied_settings(declaration, root),
    )
    problems = [
        *ad_hoc_runs(results),
        *stale_runs(declaration, results.arms),
        *protocol_differences(results, "rollout.image_conditioning" in declaration.varied),
        *long_differences(results.arms),
        *uncounted_parents(results.arms),
        *twins(results.arms),
    ]
    _refuse(problems, f"comparison of {name} refused; {again} to make the results anew")
    return results


def implied_settings(declaration: Declaration, root: Path) -> tuple[str, ...]:
    """Settings in which the arms' declared configurations differ, beyond the varied ones: a preset sets others together
    with `rollout.image_conditioning`.
    """
    configs = [
        flatten(to_dict(resolve_target(declaration.target(arm, declaration.seeds[0]), root)))
        for arm in declaration.arms
    ]
    keys = set().union(*configs) - set(declaration.varied)
    return tuple(sorted(key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)))


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


def protocol_differences(results: Iterable[Result], image_varied: bool = False) -> list[str]:
    """Keys in which the evaluation protocols of the cards differ from the first card's.

    Where the arms may differ in whether clips were given an image (`image_varied`), what a protocol says of images is
    compared with the first card of the same kind.
    """
    results = list(results)
    problems = []
    first_of: dict[bool, Result] = {}
    for result in results:
        alike = first_of.setdefault(_has_image(result), result) if image_varied else results[0]
        references = {"image": alike}
        protocol = flatten(result.cards["protocol"])
        for key in sorted({*protocol, *flatten(results[0].cards["protocol"]), *flatten(alike.cards["protocol"])}):
            reference = references.get(key.split(".")[0], results[0])
            wanted = flatten(reference.cards["protocol"]).get(key)
            if protocol.get(key) != wanted:
                problems.append(
                    f"{result.folder}/cards.json: protocol.{key}: {protocol.get(key)!r}, "
                    f"but {wanted!r} in {reference.folder}/cards.json; such numbers do not compare"
                )
    return problems


def _has_image(result: Result) -> bool:
    """Whether a run is image to video."""
    return result.manifest.get("config", {}).get("rollout", {}).get("image_conditioning", "none") != "none"


def long_differences(arms: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """Long evaluations that are missing though a run's configuration asks for them, or that differ from the first in
    length, number of clips, segments or place of the switch.
    """
    problems = []
    first: tuple[Path, dict[str, Any]] | None = None
    for result in (result for seeds in arms.values() for result in seeds.values()):
        config = result.manifest.get("config", {})
        asked = is_long(config.get("method"), config.get("rollout", {}).get("attention"), config.get("evaluate_frames"))
        for model in REQUIRED_MODELS["run"]:
            block = result.long(model)
            if block is None:
                if asked:
                    problems.append(
                        f"{result.folder}/cards.json: models.{model}.long: missing; evaluate the target again"
                    )
                continue
            shape = long_shape(block)
            first = first or (result.folder, shape)
            problems += [
                f"{result.folder}/cards.json: models.{model}.long.{key}: {value!r}, but {first[1][key]!r} in "
                f"{first[0]}/cards.json; such numbers do not compare{OTHERWISE.get(key, '')}"
                for key, value in shape.items()
                if value != first[1][key]
            ]
    return problems


def long_shape(block: Mapping[str, Any]) -> dict[str, Any]:
    """What two long evaluations must have in common to be compared."""
    return {
        **{key: block[key] for key in ("frames", "clips", "segment_frames")},
        "segments.start": [segment["start"] for segment in block["segments"]],
        "by_frame.frame": block["by_frame"]["frame"],
        "switch.at": block.get("switch", {}).get("at"),
        "switch.frame": block.get("switch", {}).get("frame"),
        "switch.delay_cap": block.get("switch", {}).get("delay_cap"),
    }


def uncounted_parents(arms: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """Runs that started from a causal SFT or a student which their manifest does not list, or that list a run without
    its compute: it could not be counted.
    """
    problems = []
    for result in (result for seeds in arms.values() for result in seeds.values()):
        manifest = result.manifest
        listed = {parent["target"]: parent.get("compute") for parent in manifest.get("parents", [])}
        unknown = [target for target, compute in listed.items() if not compute]
        start = _trained_start(manifest.get("config", {}))
        unknown += [start] if start is not None and start not in listed else []
        if unknown:
            problems.append(
                f"{result.folder}/manifest.json: parents: the compute of {', '.join(unknown)} is not recorded"
            )
    return problems


def _trained_start(config: Mapping[str, Any]) -> str | None:
    """The target of the causal SFT or student that a run started from; None where it started from another model."""
    init = config.get("init", {})
    if init.get("kind") not in ("causal_sft", "student"):
        return None
    folder = init.get("path") or "checkpoints/causal_sft"
    return f"{folder.strip('/').removeprefix('checkpoints/')}/seed{config.get('seed')}"


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
        HarnessError: if the file is missing, is not text, has no rows, or one whose cells are not those of the header.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: missing; run the stage that writes it") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HarnessError(f"{path}: cannot be read ({error})") from error
    if not rows or any(None in row or None in row.values() for row in rows):
        raise HarnessError(
            f"{path}: damaged, expected a header and rows of as many cells; restore it (`git checkout`) or run the "
            "stage that writes it again"
        )
    return [_numbers(row) for row in rows]


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
        return Result(
            target=target,
            folder=folder,
            cards=self._try(lambda: _card(folder / "cards.json", target, kind), {}),
            manifest=self._try(lambda: read_json(folder / "manifest.json", keys=MANIFEST_KEYS), {}),
            timing=self._try(lambda: _times(folder / "timing.json"), {}),
            quality=self._try(lambda: read_rows(folder / "quality.csv"), []) if kind == "run" else [],
        )

    def _try(self, read: Any, empty: Any) -> Any:
        try:
            return read()
        except HarnessError as error:
            self.problems.append(str(error))
            return empty


def _card(path: Path, target: str, kind: str) -> dict[str, Any]:
    content = read_json(path)
    if problems := list(card_problems(content, kind)):
        raise HarnessError(f"{path}: {'; '.join(problems)}; run `python -m harness evaluate {target}`")
    return content


def _times(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise HarnessError(f"{path}: no `models`; evaluate the target again")
    return content["models"]


def _refuse(problems: list[str], headline: str) -> None:
    if problems:
        raise HarnessError("\n".join([headline, *(f"  {problem}" for problem in problems)]))
