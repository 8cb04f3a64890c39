"""Writing a network's weights, whole, however it is spread over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from composer.utils import dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from harness.models.checkpoint import plain_model, save_model
from harness.models.lora import has_adapters, scale_of, updates_in


def is_sharded(network: nn.Module) -> bool:
    """Whether FSDP has spread the network over the processes."""
    return isinstance(network, FullyShardedDataParallel | FSDPModule)


def save_weights(network: nn.Module, folder: Path) -> None:
    """Write a network as a model folder, with adapters merged, and beside the weights in `adapter/`.

    Every process calls it; the first one writes, and all go on when it has.
    """
    whole, adapter = network, None
    inner: Any = network.module if isinstance(network, FullyShardedDataParallel) else network
    if is_sharded(network) or has_adapters(inner):
        # Offloaded, only the first process gets it. FSDP1 frees what it offloads: on a CPU that is the same memory.
        options = StateDictOptions(full_state_dict=True, cpu_offload=torch.cuda.is_available())
        state: Any = get_model_state_dict(network, options=options) if is_sharded(network) else network.state_dict()
        if dist.get_global_rank() == 0:
            if has_adapters(inner):  # merging makes a copy, which the device may have no room for
                state = {name: value.cpu() for name, value in state.items()}
            whole = plain_model(inner, state)
            adapter = updates_in(state, scale_of(inner)) if has_adapters(inner) else None
    if dist.get_global_rank() == 0:
        save_model(whole, folder, adapter=adapter)  # type: ignore[arg-type]
    dist.barrier()
