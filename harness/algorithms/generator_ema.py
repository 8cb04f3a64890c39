"""An exponential moving average of the generator's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor, nn

from harness.algorithms.shards import local_parameters
from harness.algorithms.updates import UpdateOrder
from harness.errors import HarnessError


@torch.no_grad()
def average(shadow: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """`shadow ← decay·shadow + (1 − decay)·weights`, in place; shadow is float32."""
    for old, new in zip(shadow, weights, strict=True):
        old.lerp_(new.float(), 1.0 - decay)


class GeneratorEMA(Algorithm):
    """Averages the generator after each of its own updates (Composer's EMA averages critic and teacher too).

    method   has the generator; under FSDP each process averages its own shards
    decay    of the average, per generator update
    start    generator updates before averaging begins; until then the average is the weights themselves
    order    tells which batches update the generator
    """

    def __init__(self, method: nn.Module, *, decay: float, start: int, order: UpdateOrder) -> None:
        self.method = method
        self.decay = decay
        self.start = start
        self.order = order
        self.shadow: dict[str, Tensor] = {}

    @property
    def network(self) -> nn.Module:
        """The generator, in whatever wrapper it has by now."""
        return self.method.get_submodule("generator")

    def match(self, event: Event, state: State) -> bool:
        """Once the weights are in place, and after each batch."""
        return event in (Event.AFTER_LOAD, Event.BATCH_END)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Begin with a copy of the weights; then follow the generator's updates, and only those."""
        if event == Event.AFTER_LOAD:
            if not self.shadow:
                self._copy()
            return
        batch = state.timestamp.batch.value - 1  # the one that has just been trained
        if self.order.role(batch) != "generator":
            return
        if self.order.done(batch + 1)["generator"] <= self.start:
            self._copy()
        else:
            weights = local_parameters(self.network)
            average([self.shadow[name] for name in weights], list(weights.values()), self.decay)

    def _copy(self) -> None:
        self.shadow = {name: w.float().clone() for name, w in local_parameters(self.network).items()}

    @contextlib.contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[nn.Module]:
        """The network with the averaged weights in place; the trained ones come back afterwards, bit for bit."""
        trained = {name: weight.clone() for name, weight in local_parameters(self.network).items()}
        self._write(self.shadow)
        try:
            yield self.network
        finally:
            self._write(trained)

    def _write(self, values: dict[str, Tensor]) -> None:
        for name, weight in local_parameters(self.network).items():
            weight.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights (this process's shards)."""
        return {"shadow": dict(self.shadow)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the averaged weights. Raises HarnessError if they are another network's."""
        wanted = {name: weight.shape for name, weight in local_parameters(self.network).items()}
        found = {name: weight.shape for name, weight in state["shadow"].items()}
        if wanted != found:
            raise HarnessError("the averaged weights of the saved state belong to another network")
        weights = local_parameters(self.network)
        self.shadow = {
            name: value.to(weights[name].device, torch.float32, copy=True) for name, value in state["shadow"].items()
        }
