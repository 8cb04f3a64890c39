"""What this process holds of a parameter: the tensor itself, or its shard under FSDP."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """The local part of a tensor: itself, unless it is distributed."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reshard(network: nn.Module) -> None:
    """Free what FSDP2 keeps gathered after a forward pass without gradient, so that the shards can be read."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_parameters(network: nn.Module, trainable_only: bool = True) -> dict[str, Tensor]:
    """Name → local part of each parameter, detached, sharing memory with it: writing to it changes the network."""
    reshard(network)
    return {
        name: local(parameter.detach())
        for name, parameter in network.named_parameters()
        if parameter.requires_grad or not trainable_only
    }
