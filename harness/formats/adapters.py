"""Adapters: low-rank updates of a base network, merged into its weights (LoRA, arXiv 2106.09685).

Read in PEFT's naming (`….lora_A.weight`, `….lora_B.weight`), in that of `lora_down`/`lora_up` files, and in LongLive's
`.pt` (PEFT's names under `generator_lora`), with the original or diffusers' module names. Written as PEFT's folder
(`harness.models.lora`) and as LongLive's `.pt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from harness.errors import HarnessError
from harness.formats.key_names import bare, diffusers_names
from harness.formats.pickled import LORA, is_state, load_pickle, read_state, save_pickle
from harness.formats.safetensors_files import read_safetensors
from harness.formats.tensor_stream import Weights
from harness.io import read_json
from harness.models.lora import CONFIG, WEIGHTS, Update, merge
from harness.models.original_names import to_original

_SUFFIXES = {
    ".lora_A.weight": "A",
    ".lora_A.default.weight": "A",
    ".lora_down.weight": "A",
    ".lora_B.weight": "B",
    ".lora_B.default.weight": "B",
    ".lora_up.weight": "B",
    ".alpha": "alpha",
}


def merged(base: Weights, updates: Mapping[str, Update], where: str) -> Weights:
    """The base with every update merged, each as its tensor is read; names are diffusers'.

    Raises:
        HarnessError: an update is of a weight that the base does not have, or of another shape.
    """
    for name, update in updates.items():
        info = base.infos.get(name)
        shape = (update.b.shape[0], update.a.shape[1])
        if info is None or info.shape != shape:
            raise HarnessError(
                f"{where}: adapts {name} {list(shape)}, the base has "
                f"{'no such weight' if info is None else list(info.shape)}; it is an adapter of another model or preset"
            )

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in base.stream():
            yield name, merge(tensor, updates[name]) if name in updates else tensor

    return Weights(base.infos, stream)


def adapter_files(path: Path) -> tuple[Path, ...]:
    """The files of an adapter: itself, or those of PEFT's folder."""
    return (path,) if not path.is_dir() else tuple(path / name for name in (CONFIG, WEIGHTS) if (path / name).is_file())


def read_adapter(path: Path, alpha: float | None = None) -> dict[str, Update]:
    """Updates by the diffusers name of the weight that they change.

    alpha   scale·rank; None takes it from the file or from PEFT's config, and the rank (scale 1) where neither has one,
            as LongLive's files

    Raises:
        HarnessError: no adapter is there, halves are missing, it is quantised, or of a kind that is no plain LoRA.
    """
    file, config = path, {}
    if path.is_dir():
        file = path / WEIGHTS
        config = read_json(path / CONFIG)
        if kinds := [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(key)]:
            raise HarnessError(f"{path / CONFIG}: {', '.join(kinds)}: only plain LoRA is known; merge it with PEFT")
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in _tensors(file):
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
        if suffix is None:
            raise HarnessError(
                f"{file}: {name} is no part of a LoRA (expected names that end in {', '.join(list(_SUFFIXES)[:2])} …)"
            )
        modules.setdefault(bare(name.removesuffix(suffix)) + ".weight", {})[_SUFFIXES[suffix]] = tensor
    updates = {}
    for weight, name in diffusers_names(modules, str(file)).items():
        parts = modules[weight]
        if not {"A", "B"} <= parts.keys() or parts["A"].shape[0] != parts["B"].shape[-1]:
            raise HarnessError(f"{file}: the A and B of {weight} are incomplete or do not multiply; fetch it again")
        rank = parts["A"].shape[0]
        own = float(parts["alpha"]) if "alpha" in parts else config.get("lora_alpha", rank)
        updates[name] = Update(parts["A"], parts["B"], (own if alpha is None else alpha) / rank)
    return updates


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if file.suffix == ".safetensors":
        yield from read_safetensors([file]).stream()
        return
    content = load_pickle(file)
    state = content.get(LORA, content)
    if not is_state(state):
        held = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        raise HarnessError(f"{file}: no adapter in it (expected `{LORA}`, or names and tensors alone); it holds {held}")
    # An alpha may be a whole number; factors may not.
    state = {name: tensor.float() if name.endswith(".alpha") else tensor for name, tensor in state.items()}
    yield from read_state(state, file).stream()


def write_longlive(path: Path, updates: Mapping[str, Update]) -> None:
    """Save an adapter as LongLive does: PEFT's names over original module names, under `generator_lora`.

    The file has no place for alpha, and is read with alpha = rank: the scale is part of B here.

    Raises:
        OSError: the disk is full or refuses.
    """
    originals = to_original(updates)
    state = {}
    for name, update in originals.items():
        module = "base_model.model." + name.removesuffix(".weight")
        state[f"{module}.lora_A.weight"] = update.a.contiguous()
        state[f"{module}.lora_B.weight"] = (update.scale * update.b.float()).to(update.b.dtype).contiguous()
    save_pickle({LORA: state}, path)
