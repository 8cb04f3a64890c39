"""From files to a `RunConfig`: presets, the arms of experiments, ad hoc files with `key=value` overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from harness.config.checks import cross_check
from harness.config.documents import describe, merge, nest, parse_yaml, read_yaml
from harness.config.schema import Preset, RunConfig
from harness.config.structure import (
    CONVERTER,
    Problem,
    Problems,
    leaves,
    refusal,
    structure,
    suggest,
    to_dict,
    unknown_key,
)
from harness.errors import HarnessError

__all__ = ["Params", "load_params", "resolve_file", "resolve_target", "structure", "to_dict"]

_STAGE_RUNS = {
    "teacher": ("sft", "random"),
    "causal_sft": ("causal_sft", "teacher"),
    "teacher_i2v": ("sft", "checkpoint"),
    "sft_first_latent": ("sft", "checkpoint"),
    "causal_sft_i2v": ("causal_sft", "teacher"),
}
SEEDLESS = ("teacher", "teacher_i2v", "sft_first_latent")  # one run each
_IMAGE_ARMS = ("channels", "first_latent", "both")  # of causal_sft_i2v: values of rollout.image_conditioning
_TARGET = re.compile(r"(?P<group>[a-z][a-z0-9_]*)(?:/(?P<arm>[a-z][a-z0-9_]*))?/seed(?P<seed>0|[1-9][0-9]*)")
_NOT_IN_EXPERIMENTS = {"seed": "is given by the target, not here", "preset": "is given by params.yaml, not here"}


@frozen(kw_only=True)
class Params:
    """params.yaml with one preset chosen. `raw` is the whole document."""

    preset_name: str
    preset: Preset
    seeds: tuple[int, ...]
    raw: dict[str, Any]


@frozen(kw_only=True)
class _ParamsFile:
    preset: str
    seeds: tuple[int, ...]
    presets: dict[str, Any]


@frozen
class _Layer:
    """Values from one place: nested, with where they came from for messages."""

    values: Mapping[str, Any]
    where: str
    at: str = ""


def load_params(path: str | os.PathLike[str] = "params.yaml", preset: str | None = None) -> Params:
    """Read params.yaml and check the chosen preset whole (`preset:` of the file, unless given here).

    Raises:
        HarnessError: listing every problem of the file or preset.
    """
    raw = read_yaml(path)
    document = structure(_ParamsFile, raw, str(path))
    name = preset or document.preset
    if name not in document.presets:
        hint = suggest(name, document.presets)
        raise HarnessError(f'{path}: preset: there is no preset "{name}"{hint}')
    if len(set(document.seeds)) != len(document.seeds) or not document.seeds or min(document.seeds) < 0:
        raise HarnessError(f"{path}: seeds: expected different numbers ≥ 0, got {list(document.seeds)}")
    chosen = structure(Preset, document.presets[name], str(path), f"presets.{name}")
    params = Params(preset_name=name, preset=chosen, seeds=document.seeds, raw=raw)
    own = {"method": "sft", "seed": 0}
    _build([_preset_layer(params, path), _Layer(own, str(path))], chosen)
    if chosen.i2v is not None:
        image = {"rollout": {"image_conditioning": "channels"}}
        _build([_preset_layer(params, path), _Layer(own | image, str(path))], chosen)
    if chosen.long is not None:
        long = {"method": "dmd", "seed": 0, "long": True}
        _build([_preset_layer(params, path), _Layer(long, str(path))], chosen)
    return params


def resolve_target(target: str, root: str | os.PathLike[str] = ".") -> RunConfig:
    """The complete configuration of a declared run.

    `teacher`, `causal_sft/seed<N>`, their image-to-video kin `teacher_i2v`, `sft_first_latent` (what `teacher_i2v` is
    to a generator that reads no image) and `causal_sft_i2v/<image_conditioning>/seed<N>`, or
    `<experiment>/<arm>/seed<N>`: the preset's defaults, then the experiment's `fixed`, then the arm's `set`.

    Raises:
        HarnessError: if the target is unknown, or a file it needs is missing or wrong.
    """
    root = Path(root)
    params = load_params(root / "params.yaml")
    group, arm, seed = split_target(target)
    layers = [_preset_layer(params, root / "params.yaml")]
    if arm is None or group in _STAGE_RUNS:
        layers.append(_Layer(_stage_values(group, arm, seed, params.preset), f"target {target}"))
    else:
        layers.append(_Layer({"seed": seed}, f"target {target}"))
        layers += _experiment_layers(root, group, arm)
    return _build(layers, params.preset)


def _stage_values(group: str, arm: str | None, seed: int, preset: Preset) -> dict[str, Any]:
    """What a stage's own run sets. Image to video starts from the text-to-video teacher where the preset trains it."""
    method, kind = _STAGE_RUNS[group]
    values: dict[str, Any] = {"method": method, "seed": seed, "init": {"kind": kind}}
    if group in ("teacher_i2v", "sft_first_latent"):
        way = "channels" if group == "teacher_i2v" else "first_latent"
        values["init"]["path"] = str(preset.run.get("teacher", fields(RunConfig).teacher.default))
        values["rollout"] = {"image_conditioning": way}
    elif group == "causal_sft_i2v":
        values["rollout"] = {"image_conditioning": arm}
        if arm == "first_latent":
            values["init"] = {"kind": "checkpoint", "path": "checkpoints/sft_first_latent"}
    return values


def split_target(target: str) -> tuple[str, str | None, int]:
    """`teacher` → (teacher, None, 0); `causal_sft/seed1` → (causal_sft, None, 1); `e/a/seed2` → (e, a, 2).

    Raises:
        HarnessError: if the target has none of these forms.
    """
    if target in SEEDLESS:
        return target, None, 0
    match = _TARGET.fullmatch(target)
    if match is not None and _is_target(match["group"], match["arm"]):
        return match["group"], match["arm"], int(match["seed"])
    raise HarnessError(
        f'"{target}" names no run: expected `teacher`, `causal_sft/seed<N>`, `teacher_i2v`, `sft_first_latent`, '
        f"`causal_sft_i2v/<{'|'.join(_IMAGE_ARMS)}>/seed<N>` or `<experiment>/<arm>/seed<N>`, "
        "for example `two_stage_vs_one_stage/two_stage/seed0`"
    )


def _is_target(group: str, arm: str | None) -> bool:
    match group:
        case "teacher" | "teacher_i2v" | "sft_first_latent":
            return False
        case "causal_sft":
            return arm is None
        case "causal_sft_i2v":
            return arm in _IMAGE_ARMS
        case _:
            return arm is not None


def resolve_file(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), params_path: str | os.PathLike[str] = "params.yaml"
) -> RunConfig:
    """The complete configuration of an ad hoc run: a file's keys over its preset's defaults, then `key.sub=value`.

    The file names its `preset` (default: the one chosen in params.yaml), `method` and `seed`, and any other key of
    `RunConfig`, nested or dotted.

    Raises:
        HarnessError: if a file or an override is wrong; all unknown keys are listed at once.
    """
    return resolve_values(read_yaml(path), str(path), overrides, params_path)


def resolve_values(
    values: Mapping[str, Any],
    where: str,
    overrides: Sequence[str] = (),
    params_path: str | os.PathLike[str] = "params.yaml",
) -> RunConfig:
    """As `resolve_file`, for what a file holds; `where` names it in messages."""
    own = _Layer(_nested(values, where), where)
    typed = parse_overrides(overrides)
    preset = typed.get("preset", own.values.get("preset"))
    if preset is not None and not isinstance(preset, str):
        raise HarnessError(f"{where}: preset: expected text, got {describe(preset)}")
    params = load_params(params_path, preset)
    command_line = _Layer(_nested(typed, "command line"), "command line")
    return _build([_preset_layer(params, params_path), own, command_line], params.preset)


def resolve_preset(
    name: str,
    method: str,
    overrides: Sequence[str] = (),
    params_path: str | os.PathLike[str] = "params.yaml",
) -> RunConfig:
    """What a preset says of a method, with seed 0, then `key.sub=value`.

    Raises:
        HarnessError: if there is no such preset or method, or an override is wrong.
    """
    params = load_params(params_path, name)
    typed = parse_overrides(overrides)
    chosen = _Layer({"method": method, "seed": 0}, "command line")
    return _build(
        [_preset_layer(params, params_path), chosen, _Layer(_nested(typed, "command line"), "command line")],
        params.preset,
    )


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["dmd.cfg_scale=2", …]` → `{"dmd.cfg_scale": 2, …}`; values are YAML, a later one wins.

    Raises:
        HarnessError: for an argument without `=`, an unknown key (all of them at once) or a broken value.
    """
    result: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append((text, "expected key.sub=value, for example dmd.cfg_scale=2"))
        elif wrong := unknown_key(RunConfig, key):
            problems.append((text, wrong))
        else:
            result.pop(key, None)
            result[key] = parse_yaml(value, f"command line: {key}")
    if problems:
        raise refusal(problems, "command line")
    return result


def _preset_layer(params: Params, path: str | os.PathLike[str]) -> _Layer:
    run = {**params.preset.run, "preset": params.preset_name}
    return _Layer(run, str(path), f"presets.{params.preset_name}.run")


def _experiment_layers(root: Path, experiment: str, arm: str) -> list[_Layer]:
    path = root / "experiments" / experiment / "experiment.yaml"
    if not path.is_file():
        known = sorted(file.parent.name for file in (root / "experiments").glob("*/experiment.yaml"))
        raise HarnessError(f'{path}: there is no experiment "{experiment}"{suggest(experiment, known)}')
    document = read_yaml(path)
    arms = document.get("arms")
    if not isinstance(arms, dict) or arm not in arms:
        hint = suggest(arm, map(str, arms)) if isinstance(arms, dict) else ""
        raise HarnessError(f'{path}: arms: there is no arm "{arm}"{hint}')
    sections = {"fixed": document.get("fixed", {}), f"arms.{arm}.set": (arms[arm] or {}).get("set", {})}
    problems: list[Problem] = []
    for at, values in sections.items():
        if not isinstance(values, dict):
            problems.append((at, f"expected a mapping, got {describe(values)}"))
            continue
        for key in _flat(values):
            if wrong := _NOT_IN_EXPERIMENTS.get(key) or unknown_key(RunConfig, key):
                problems.append((f"{at}.{key}", wrong))
    if problems:
        raise refusal(problems, str(path))
    return [_Layer(_nested(values, f"{path}: {at}"), str(path), at) for at, values in sections.items()]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _nested(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        return nest(values)
    except ValueError as error:
        raise HarnessError(f"{where}: {error}") from error


def _build(layers: Sequence[_Layer], preset: Preset) -> RunConfig:
    """Merge the layers into a checked `RunConfig`; each problem is reported at the place that gave the value."""
    values = merge({}, *(layer.values for layer in layers))
    if preset.i2v is not None and (way := _image_conditioning(values)) != "none":
        layers = [layers[0], _i2v_layer(layers[0], preset.i2v, way), *layers[1:]]
    if preset.long is not None and values.get("long") is True:
        at = layers[0].at.replace(".run", ".long")
        own = _Layer(_nested(preset.long, f"{layers[0].where}: long"), layers[0].where, at)
        layers = [layers[0], own, *layers[1:]]
    values = merge({}, *(layer.values for layer in layers))
    try:
        config = CONVERTER.structure(values, RunConfig)
        problems = list(cross_check(config, preset))
    except Problems as found:
        problems = found.items
    else:
        if not problems:
            return config
    by_place: dict[str, list[Problem]] = {}
    for path, text in problems:
        layer = max(
            reversed(layers), key=lambda layer, path=path: _depth(layer.values, path)
        )  # the last that reaches deepest
        by_place.setdefault(layer.where, []).append((f"{layer.at}.{path}" if layer.at else path, text))
    raise HarnessError("\n".join(str(refusal(items, where)) for where, items in by_place.items()))


def _image_conditioning(values: Mapping[str, Any]) -> Any:
    rollout = values.get("rollout")
    return rollout.get("image_conditioning", "none") if isinstance(rollout, Mapping) else "none"


def _i2v_layer(preset: _Layer, i2v: Mapping[str, Any], way: Any) -> _Layer:
    """The preset's own differences for image to video. A generator that is given a first latent only reads no image: it
    keeps the text-to-video network.
    """
    dropped = ("model",) if way == "first_latent" else ()
    values = {key: value for key, value in i2v.items() if key not in dropped}
    return _Layer(_nested(values, f"{preset.where}: i2v"), preset.where, preset.at.replace(".run", ".i2v"))


def _depth(values: Any, path: str) -> int:
    """How many parts of a dotted path the values hold."""
    depth = 0
    for part in path.split("."):
        if not isinstance(values, Mapping) or part not in values:
            break
        values = values[part]
        depth += 1
    return depth


def known_keys() -> list[str]:
    """All dotted keys of `RunConfig`, for help and suggestions."""
    return leaves(RunConfig)
