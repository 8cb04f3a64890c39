"""Several processes: what FSDP wraps, and the Trainer's settings for it. Models know nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from composer.utils import FSDP2Config, FSDPConfig, dist, get_device
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffload, CPUOffloadPolicy, fully_shard

from harness.config.schema import ParallelismConfig
from harness.errors import HarnessError

BLOCKS = "blocks"  # the attribute of diffusers' transformers that holds the layers


def copies(config: ParallelismConfig, world_size: int) -> int:
    """How many whole copies of a sharded network there are: 1, or more with hybrid sharding."""
    return 1 if config.shard_degree is None else world_size // config.shard_degree


def check_device(config: ParallelismConfig, has_accelerator: bool) -> None:
    """Raise HarnessError for FSDP on a CPU: gloo sums gradients where FSDP2 asks for their mean, and says nothing."""
    if config.kind != "ddp" and not has_accelerator:
        raise HarnessError(
            f"parallelism.kind: {config.kind} needs GPUs (on CPUs its gradients would be wrong); set it to ddp"
        )


def check_sharding(config: ParallelismConfig, world_size: int) -> None:
    """Raise HarnessError for settings of sharding that do not fit its kind or the number of processes."""
    for name, given, kinds in (
        ("shard_degree", config.shard_degree is not None, ("fsdp1", "fsdp2")),
        ("teacher_cpu_offload", config.teacher_cpu_offload, ("fsdp1", "fsdp2")),
        # FSDP1 would leave the copy gathered while the weights change under it
        ("reshard_after_forward", not config.reshard_after_forward, ("fsdp2",)),
    ):
        if given and config.kind not in kinds:
            raise HarnessError(
                f"parallelism.{name}: has no meaning with parallelism.kind: {config.kind}; leave it out, or set the "
                f"kind to {' or '.join(kinds)}"
            )
    if config.shard_degree is not None and world_size % config.shard_degree:
        raise HarnessError(
            f"parallelism.shard_degree: {config.shard_degree} does not divide {world_size} processes; choose a divisor "
            "(usual: the GPUs of one node), or leave it out to shard over all"
        )


def shard_networks(networks: Mapping[str, nn.Module], config: ParallelismConfig) -> None:
    """Tell Composer what to wrap: each network, and each of its layers; with checkpointing, each trained layer.

    A network without weights (a teacher that shares the critic's) is not wrapped.
    With `teacher_cpu_offload` the teacher's layers live in host memory and come to the device one at a time. Composer
    has no way to ask that of FSDP2 for one network alone, so there the teacher is sharded here.
    """
    for role, network in networks.items():
        if not any(True for _ in network.parameters()):
            network._fsdp_wrap = False  # type: ignore[assignment]
            network.fsdp_wrap_fn = _nothing  # type: ignore[assignment]
            continue
        layers = list(getattr(network, BLOCKS, []))
        trained = any(parameter.requires_grad for parameter in network.parameters())
        offloaded = config.teacher_cpu_offload and role == "teacher"

        def is_layer(module: nn.Module, layers: list[nn.Module] = layers) -> bool:
            return any(module is layer for layer in layers)

        def how(module: nn.Module, role: str = role, is_layer: Any = is_layer, offloaded: bool = offloaded) -> Any:
            if not is_layer(module):
                return False
            if offloaded:
                return {"cpu_offload": CPUOffload(offload_params=True)}
            if role == "generator" and not config.reshard_after_forward:
                return {"reshard_after_forward": False}
            return True

        network._fsdp_wrap = True  # type: ignore[assignment]
        network.fsdp_wrap_fn = how  # type: ignore[assignment]
        network.activation_checkpointing_fn = (  # type: ignore[assignment]
            is_layer if trained and config.activation_checkpointing else _nothing
        )
        if offloaded and config.kind == "fsdp2":
            _shard_offloaded(network, layers, config)
            network._fsdp_wrap = False  # type: ignore[assignment]
            network.fsdp_wrap_fn = _nothing  # type: ignore[assignment]


def _nothing(module: nn.Module) -> bool:
    return False


def _shard_offloaded(network: nn.Module, layers: list[nn.Module], config: ParallelismConfig) -> None:
    device = get_device(None)
    dist.initialize_dist(device)
    world_size = dist.get_world_size()
    replicas = copies(config, world_size)
    shape = (world_size,) if replicas == 1 else (replicas, world_size // replicas)
    names = ("shard",) if replicas == 1 else ("replicate", "shard")
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", shape, mesh_dim_names=names)
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available())
    for layer in layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(network, mesh=mesh)


class _HybridFSDP2Config(FSDP2Config):
    """Composer makes its device mesh from two properties that FSDP2Config has, but gives no way to set."""

    def __init__(self, replicas: int, shards: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.replicas = replicas
        self.shards = shards

    @property
    def data_parallel_replicate_degree(self) -> int | None:
        return self.replicas if self.replicas > 1 else None

    @property
    def data_parallel_shard_degree(self) -> int:
        return self.shards


def parallelism_settings(config: ParallelismConfig, world_size: int) -> dict[str, Any] | None:
    """The Trainer's `parallelism_config`; None for DDP or one process.

    Parameters are gathered in float32 and computed with under autocast: FSDP's own lower precision would cast the
    forward's inputs too, and a timestep of 937.5 is 936 in bf16.
    """
    if config.kind == "ddp":
        return None
    replicas = copies(config, world_size)
    if config.kind == "fsdp1":
        hybrid = {
            "data_parallel_replicate_degree": replicas,
            "data_parallel_shard_degree": world_size // replicas,
        }
        return {
            "fsdp": FSDPConfig(
                activation_checkpointing=config.activation_checkpointing,
                activation_checkpointing_reentrant=False,
                mixed_precision="FULL",
                sharding_strategy="FULL_SHARD" if replicas == 1 else "HYBRID_SHARD",
                use_orig_params=True,
                **(hybrid if replicas > 1 else {}),
            )
        }
    return {
        "fsdp": _HybridFSDP2Config(
            replicas,
            world_size // replicas,
            activation_checkpointing=config.activation_checkpointing,
            mixed_precision="FULL",
        )
    }
