"""Writing a network in the formats that others read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.formats.pickled import write_pickle
from harness.formats.safetensors_files import write_safetensors
from harness.formats.tensor_stream import Info, Weights, renamed
from harness.formats.wan_config import Config, config_json, to_original_config
from harness.models.checkpoint import WEIGHTS
from harness.models.original_names import to_original

SHARD_BYTES = 10 * 10**9  # as `save_pretrained` of diffusers


def write_diffusers(folder: Path, config: Config, weights: Weights, *, shard_bytes: int = SHARD_BYTES) -> None:
    """A folder that `WanTransformer3DModel.from_pretrained` loads. `folder` must exist."""
    (folder / "config.json").write_text(config_json(config), encoding="utf-8")
    _write_shards(folder, weights, shard_bytes)


def write_original(folder: Path, config: Config, weights: Weights, *, shard_bytes: int = SHARD_BYTES) -> None:
    """A folder in the layout of Wan's own repositories. `folder` must exist."""
    text = json.dumps(to_original_config(config), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    _write_shards(folder, _original(weights), shard_bytes)


def write_single_file(path: Path, weights: Weights) -> None:
    """One safetensors file with original names, as ComfyUI and LightX2V load it."""
    write_safetensors(_original(weights), {path: list(_original(weights).infos)})


def write_self_forcing(path: Path, weights: Weights) -> None:
    """A `.pt` as Self-Forcing saves it."""
    write_pickle(_original(weights), path)


def _original(weights: Weights) -> Weights:
    return renamed(weights, {name: original for original, name in to_original({n: n for n in weights.infos}).items()})


def _write_shards(folder: Path, weights: Weights, shard_bytes: int) -> None:
    shards = split(weights.infos, shard_bytes)
    stem, suffix = WEIGHTS.split(".")
    names = [f"{stem}-{n:05d}-of-{len(shards):05d}.{suffix}" for n in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [WEIGHTS]
    else:
        index = {
            "metadata": {"total_size": weights.nbytes},
            "weight_map": {name: file for file, shard in zip(names, shards) for name in shard},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{WEIGHTS}.index.json").write_text(text, encoding="utf-8")
    write_safetensors(weights, {folder / file: shard for file, shard in zip(names, shards)})


def split(infos: Mapping[str, Info], shard_bytes: int) -> list[Sequence[str]]:
    """Names in order, cut into shards of at most `shard_bytes` (a larger tensor has one of its own)."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return list(shards)
