"""What training costs: denoiser forwards, model FLOPs, device seconds, peak memory. Monitors do not count."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch import nn

from harness.callbacks.flops import DenoiserCost
from harness.models.lora import adapters_are_off


class ComputeMeter(Callback):
    """Counts every call of the method's networks; a call that carries gradient counts three times its forward FLOPs.

    FLOPs are the model's: recomputation under activation checkpointing is not counted, nor are the rest of the loop,
    the optimizer or the monitor. With adapters three times is an upper bound: frozen weights get no gradient. Device
    seconds are the CPU time of the process on a CPU, wall time on an accelerator, over the batches alone. With several
    processes each does the same, so counts are multiplied by their number.

    networks     role → network, before any distributed wrapper
    world_size   number of processes
    """

    def __init__(self, networks: Mapping[str, nn.Module], world_size: int = 1) -> None:
        self.world_size = world_size
        self.forwards = 0
        self.flops = 0
        self.device_seconds = 0.0
        self.batch_seconds = 0.0  # wall time of the last batch
        self.wall_seconds = 0.0
        self.peak_memory_mib = 0.0
        self._counting = False
        self._cpu_start = self._wall_start = self._session_start = time.perf_counter()
        for network in networks.values():
            self._watch(network)

    def _watch(self, network: nn.Module) -> None:
        if not any(True for _ in network.parameters()):
            return  # it runs another's weights, whose calls are counted there
        cost, without = DenoiserCost(network), DenoiserCost(network, adapters=False)
        trainable = any(parameter.requires_grad for parameter in network.parameters())

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._counting:
                self.forwards += 1
                flops = (without if adapters_are_off(module) else cost).of(args, kwargs)
                self.flops += flops * (3 if trainable and torch.is_grad_enabled() else 1)

        network.register_forward_pre_hook(count, with_kwargs=True)

    @property
    def teraflops(self) -> float:
        """10¹² floating point operations so far, over all processes."""
        return self.flops * self.world_size / 1e12

    def compute(self) -> dict[str, float | int]:
        """The counted compute over all processes, as manifests hold it."""
        return {
            "teraflops": self.teraflops,
            "denoiser_forwards": self.forwards * self.world_size,
            "device_seconds": self.device_seconds * self.world_size,
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing inside counts."""
        before, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = before

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin the wall clock of this process."""
        self._session_start = time.perf_counter()

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Begin a batch: loading it counts."""
        self._counting = True
        self._cpu_start, self._wall_start = time.process_time(), time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """End a batch. Must come before the callbacks whose cost is not training's."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._counting = False
        self.batch_seconds = time.perf_counter() - self._wall_start
        cpu_seconds = time.process_time() - self._cpu_start
        self.device_seconds += self.batch_seconds if torch.cuda.is_available() else cpu_seconds

    def state_dict(self) -> dict[str, Any]:
        """All counters, so that they go on after an interruption."""
        now = time.perf_counter()
        self.wall_seconds, self._session_start = self.wall_seconds + now - self._session_start, now
        self.peak_memory_mib = max(self.peak_memory_mib, peak_memory_mib())
        return {
            "forwards": self.forwards,
            "flops": self.flops,
            "device_seconds": self.device_seconds,
            "wall_seconds": self.wall_seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from saved counters."""
        self.forwards, self.flops = state["forwards"], state["flops"]
        self.device_seconds = state["device_seconds"]
        self.wall_seconds = state["wall_seconds"]
        self.peak_memory_mib = state["peak_memory_mib"]


def peak_memory_mib() -> float:
    """Peak memory of this process so far, MiB: of the accelerator where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
