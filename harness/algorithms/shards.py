"""What this process holds of a parameter: the tensor itself, or its shard under FSDP."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.fsdp._runtime_utils import _reshard
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The local part of a tensor: itself, unless it is distributed."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(network: nn.Module) -> None:
    """Free what FSDP keeps gathered after a forward pass without gradient.

    FSDP2 would else not show the shards. FSDP1 does, but goes on computing with what it had gathered of the outermost
    module, whatever is written to the shards meanwhile; it has no public call for this.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
        elif isinstance(module, FullyShardedDataParallel):
            handle = module._handle
            used = module._is_root is not None  # before the first forward pass there is nothing gathered
            if handle is not None and used and handle.uses_sharded_strategy and not handle.needs_unshard():
                _reshard(module, handle, True)


def local_parameters(network: nn.Module, trainable_only: bool = True) -> dict[str, Tensor]:
    """Name → local part of each parameter, detached, sharing memory with it: writing to it changes the network."""
    reshard(network)
    return {
        name: local(parameter.detach())
        for name, parameter in network.named_parameters()
        if parameter.requires_grad or not trainable_only
    }
