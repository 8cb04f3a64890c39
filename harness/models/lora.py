"""Low-rank adapters (LoRA, arXiv 2106.09685): W·x becomes W·x + (alpha / rank)·B·A·x, and only A and B are trained.

peft puts them into the network, in place: classes, calls and hooks stay as they are. B is zero at first, so that the
network computes what it did. What is given out is the merged network, W + (alpha / rank)·B·A, under its usual names.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.config.schema import LoRAConfig
from harness.errors import HarnessError

NAME = "default"  # what peft calls the one adapter of a network
ALL = "all"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of peft's folder
_BASE, _A, _B = ".base_layer.", f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight"
_PREFIX = "base_model.model."  # of every name in peft's files


@frozen
class Update:
    """W ← W + scale·B·A."""

    a: Tensor  # [rank, in]
    b: Tensor  # [out, rank]
    scale: float


def merge(weight: Tensor, update: Update) -> Tensor:
    """W + scale·B·A, computed in float32 (float64 for float64 weights) and returned in the type of `weight`."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) + update.scale * (update.b.to(wide) @ update.a.to(wide))).to(weight.dtype)


def linear_names(network: nn.Module) -> list[str]:
    """The linear layers of the network's blocks: `blocks.0.attn1.to_q`, …"""
    modules = network.named_modules()
    return [name for name, module in modules if name.startswith("blocks.") and isinstance(module, nn.Linear)]


def choose(names: Sequence[str], targets: Iterable[str]) -> list[str]:
    """The names that are, or end in, one of `targets`; all of them for `all`.

    Raises:
        HarnessError: a target names none of them.
    """
    chosen: set[str] = set()
    for target in targets:
        found = {name for name in names if target == ALL or name == target or name.endswith(f".{target}")}
        if not found:
            kinds = sorted({name.split(".", 2)[2] for name in names})
            raise HarnessError(
                f"lora.targets: {target} is no linear layer of the blocks; expected `{ALL}`, a whole name such as "
                f"{names[0]}, or an end of one: {', '.join(kinds)}"
            )
        chosen |= found
    return [name for name in names if name in chosen]


def add_adapters(network: nn.Module, config: LoRAConfig, seed: int) -> None:
    """Put adapters into a network; what it computes does not change. peft freezes the rest.

    config   of a run with a rank
    seed     of the random A; the global random state stays as it was

    Raises:
        HarnessError: a target is unknown.
    """
    assert config.rank is not None
    names = choose(linear_names(network), config.targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names)  # type: ignore[arg-type]
        inject_adapter_in_model(settings, network, NAME)


def has_adapters(network: nn.Module) -> bool:
    """Whether `add_adapters` was called on the network."""
    return hasattr(network, "peft_config")


def scale_of(network: nn.Module) -> float:
    """The network's alpha / rank."""
    config: LoraConfig = network.peft_config[NAME]  # type: ignore[index, assignment]
    return config.lora_alpha / config.r


def adapters_are_off(network: nn.Module) -> bool:
    """Whether the network computes without its adapters at the moment."""
    return next((layer.disable_adapters for layer in network.modules() if isinstance(layer, LoraLayer)), False)


@contextlib.contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """Inside, the network computes what it did before it had adapters.

    peft's own switch also stops the adapters' gradients, which several processes' hooks would see.
    """
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def updates_in(state: Mapping[str, Tensor], scale: float) -> dict[str, Update]:
    """The adapters in a network's state, by the plain names of the weights that they change."""
    return {
        name.removesuffix(_A) + ".weight": Update(a, state[name.removesuffix(_A) + _B], scale)
        for name, a in state.items()
        if name.endswith(_A)
    }


def merged_state(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state of a network with adapters → that of a plain one that computes the same.

    A layer whose B is zero keeps every bit of its weights.
    """
    updates = updates_in(state, scale)
    plain = {name.replace(_BASE, "."): value for name, value in state.items() if not name.endswith((_A, _B))}
    return {name: merge(value, updates[name]) if name in updates else value for name, value in plain.items()}


def adapter_files(updates: Mapping[str, Update]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The adapters as peft saves them: the configuration, and the tensors by peft's names.

    updates   by the names of weights, of one rank and scale
    """
    ranks, scales = ({u.a.shape[0] for u in updates.values()}, {u.scale for u in updates.values()})
    assert len(ranks) == len(scales) == 1, f"ranks {ranks} and scales {scales} are not of one adapter"
    rank, scale = ranks.pop(), scales.pop()
    modules = sorted(name.removesuffix(".weight") for name in updates)
    settings = LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=modules, inference_mode=True)  # type: ignore[arg-type]
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}
    tensors = {}
    for module in modules:
        update = updates[f"{module}.weight"]
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = update.a.detach().contiguous()
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = update.b.detach().contiguous()
    return config, tensors


def write_adapter(folder: Path, updates: Mapping[str, Update]) -> None:
    """Write peft's files of an adapter into a folder, which is made if it is not there."""
    config, tensors = adapter_files(updates)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
