"""A teacher that holds no weights: the critic's frozen base, without its adapter (LongLive, arXiv 2509.22622, §3.2).

With adapters the critic's own weights stay those that it started from. If these are the teacher's, one copy serves
both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from harness.config.schema import DMDConfig, RolloutConfig
from harness.methods.dmd import DMD
from harness.models.lora import adapters_off


class SharedTeacher(nn.Module):
    """Answers as the network behind `find` did before it had adapters; no gradient flows.

    find   gives the network in whatever wrapper it has by now; it is no part of this module
    """

    def __init__(self, find: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._find = find

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network, adapters off."""
        network = self._find()
        with adapters_off(network), torch.no_grad():
            return network(*args, **kwargs)


def build_dmd(
    generator: nn.Module, critic: nn.Module, teacher: nn.Module | None, config: DMDConfig, rollout: RolloutConfig
) -> DMD:
    """The method; without a teacher of its own it shares the critic's base."""
    method: DMD
    shared = SharedTeacher(lambda: method.get_submodule("critic"))
    method = DMD(generator, critic, shared if teacher is None else teacher, config, rollout)
    return method
