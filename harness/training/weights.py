"""Writing a network's weights, whole, however it is spread over processes."""

from __future__ import annotations

from pathlib import Path

import torch
from composer.utils import dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import load_state, save_model


def is_sharded(network: nn.Module) -> bool:
    """Whether FSDP has spread the network over the processes."""
    return isinstance(network, FullyShardedDataParallel | FSDPModule)


def save_weights(network: nn.Module, folder: Path) -> None:
    """Write a network as a model folder. Every process calls it; the first one writes, and all go on when it has."""
    if is_sharded(network):
        # Offloaded, only the first process gets it. FSDP1 frees what it offloads: on a CPU that is the same memory.
        options = StateDictOptions(full_state_dict=True, cpu_offload=torch.cuda.is_available())
        state = get_model_state_dict(network, options=options)
        if dist.get_global_rank() == 0:
            inner = network.module if isinstance(network, FullyShardedDataParallel) else network
            with torch.device("meta"):
                whole = CausalWan.from_config(dict(inner.config))  # type: ignore[arg-type]
            load_state(whole, state, "the gathered weights")  # type: ignore[arg-type]
            save_model(whole, folder)  # type: ignore[arg-type]
    elif dist.get_global_rank() == 0:
        save_model(network, folder)  # type: ignore[arg-type]
    dist.barrier()
