"""Several processes: what FSDP wraps, and the Trainer's settings for it. Models know nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from harness.config.schema import ParallelismConfig
from harness.errors import HarnessError

BLOCKS = "blocks"  # the attribute of diffusers' transformers that holds the layers


def mark_blocks(networks: Mapping[str, nn.Module], config: ParallelismConfig) -> None:
    """Tell Composer what to wrap: each network, and each of its layers; with checkpointing, each trained layer."""
    for network in networks.values():
        layers = list(getattr(network, BLOCKS, []))
        trained = any(parameter.requires_grad for parameter in network.parameters())

        def is_layer(module: nn.Module, layers: list[nn.Module] = layers) -> bool:
            return any(module is layer for layer in layers)

        network._fsdp_wrap = True  # type: ignore[assignment]
        network.fsdp_wrap_fn = is_layer  # type: ignore[assignment]
        network.activation_checkpointing_fn = (  # type: ignore[assignment]
            is_layer if trained and config.activation_checkpointing else _nothing
        )


def _nothing(module: nn.Module) -> bool:
    return False


def check_device(config: ParallelismConfig, has_accelerator: bool) -> None:
    """Raise HarnessError for FSDP on a CPU: gloo sums gradients where FSDP2 asks for their mean, and says nothing."""
    if config.kind != "ddp" and not has_accelerator:
        raise HarnessError(
            f"parallelism.kind: {config.kind} needs GPUs (on CPUs its gradients would be wrong); set it to ddp"
        )


def parallelism_settings(config: ParallelismConfig) -> dict[str, Any] | None:
    """The Trainer's `parallelism_config`; None for DDP or one process.

    Parameters are gathered in float32 and computed with under autocast: FSDP's own lower precision would cast the
    forward's inputs too, and a timestep of 937.5 is 936 in bf16.
    """
    if config.kind == "ddp":
        return None
    from composer.utils import FSDP2Config, FSDPConfig

    if config.kind == "fsdp1":
        return {
            "fsdp": FSDPConfig(
                activation_checkpointing=config.activation_checkpointing,
                activation_checkpointing_reentrant=False,
                mixed_precision="FULL",
                sharding_strategy="FULL_SHARD",
                use_orig_params=True,
            )
        }
    return {"fsdp": FSDP2Config(activation_checkpointing=config.activation_checkpointing, mixed_precision="FULL")}
