"""Optimizer groups: one per trained network, named after its role."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.config.schema import AdamWConfig


def optimizer_group(name: str, network: nn.Module, config: AdamWConfig) -> dict[str, Any]:
    """Give AdamW's group for the trainable parameters of a network."""
    return {
        "name": name,
        "params": [parameter for parameter in network.parameters() if parameter.requires_grad],
        "lr": config.lr,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
