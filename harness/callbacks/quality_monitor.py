"""Quality on fixed prompts and noise during training, and the best weights so far."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from composer.core import Callback, State
from composer.loggers import Logger
from torch import nn

from harness.algorithms.generator_ema import GeneratorEMA
from harness.algorithms.updates import UpdateOrder
from harness.callbacks.compute_meter import ComputeMeter
from harness.callbacks.table import Table
from harness.config.metrics import STATIC_COLLAPSE_ALARM, better

COLUMNS = ("batch", "update", "teraflops", "device_seconds", "monitor_seconds")

SampleAndScore = Callable[[nn.Module], dict[str, float]]


class QualityMonitor(Callback):
    """Samples with the averaged weights and scores: before training, every so many generator updates, and at the end.

    The row of update 0 is the line to beat; it is not a candidate for the best weights. Where clips hardly move against
    the teacher's (`static_collapse`), one line on standard error says so at that reading.

    sample_and_score   generator → metric values
    ema                gives the network with averaged weights
    metric             its best value decides which weights are kept
    every              generator updates between measurements
    order, meter       what was done and spent so far; measuring is not counted
    path               `quality.csv`
    save               writes the network's weights as the best, atomically
    at_start           whether to measure update 0 (weights that are random have nothing to measure)
    patience           measurements without a better one after which training ends; None: it never ends early
    writes             whether this process writes files
    """

    def __init__(
        self,
        sample_and_score: SampleAndScore,
        *,
        ema: GeneratorEMA,
        metric: str,
        every: int,
        order: UpdateOrder,
        meter: ComputeMeter,
        path: Path,
        save: Callable[[nn.Module], None],
        at_start: bool = True,
        patience: int | None = None,
        writes: bool = True,
    ) -> None:
        self.sample_and_score = sample_and_score
        self.ema = ema
        self.metric = metric
        self.every = every
        self.order = order
        self.meter = meter
        self.table = Table(path, COLUMNS) if writes else None
        self.save = save
        self.at_start = at_start
        self.patience = patience
        self.best: dict[str, Any] | None = None
        self.since_best = 0

    @property
    def exhausted(self) -> bool:
        """Whether training ends early."""
        return self.patience is not None and self.since_best >= self.patience

    def fit_start(self, state: State, logger: Logger) -> None:
        """Measure the weights that training starts from."""
        if state.timestamp.batch.value == 0:
            if self.table is not None:
                self.table.restart()
            if self.at_start:
                self._measure(0)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Measure after a generator update whose turn it is, and after the last."""
        batches = state.timestamp.batch.value
        if self.order.role(batches - 1) != "generator":
            return
        update = self.order.done(batches)["generator"]
        if update % self.every == 0 or batches == self.order.batches:
            self._measure(batches)
            if self.exhausted:
                state.stop_training()

    def _measure(self, batches: int) -> None:
        update = self.order.done(batches)["generator"]
        with self.meter.paused(), self.ema.applied() as network, _undisturbed(network):
            values, seconds = _timed(lambda: self.sample_and_score(network))
            values = _first_process_values(values)
            if update > 0:
                self.since_best += 1
                if self._is_better(values):
                    self.since_best = 0
                    self.best = {"update": update, "metric": self.metric, "value": float(values[self.metric])}
                    self.save(network)
        if self.table is not None:
            row: dict[str, Any] = {
                "batch": batches,
                "update": update,
                "teraflops": self.meter.teraflops,
                "device_seconds": round(self.meter.device_seconds * self.meter.world_size, 3),
                "monitor_seconds": round(seconds, 3),
            }
            self.table.append(row | {name: float(value) for name, value in values.items()})
            if alarm := static_collapse_alarm(update, values):
                print(alarm, file=sys.stderr, flush=True)

    def _is_better(self, values: dict[str, float]) -> bool:
        value = float(values[self.metric])
        if math.isnan(value):
            return False
        return self.best is None or better(self.metric, value, self.best["value"])

    def state_dict(self) -> dict[str, Any]:
        """The best value, how long ago it was, and the number of rows that belong to the state being saved."""
        if self.table is not None:
            self.table.sync()
        return {"best": self.best, "since_best": self.since_best, "rows": 0 if self.table is None else self.table.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; later rows are cut off."""
        self.best, self.since_best = state["best"], state["since_best"]
        if self.table is not None:
            self.table.truncate(state["rows"])


def static_collapse_alarm(update: int, values: dict[str, float]) -> str | None:
    """What to say of a reading whose clips stand still; None of any other."""
    motion = values.get("static_collapse", math.nan)
    if math.isnan(motion) or motion >= STATIC_COLLAPSE_ALARM:
        return None
    return (
        f"ALARM static collapse at update {update}: after their first frame the clips move {motion:.2f} times as much "
        f"as the teacher's (alarm below {STATIC_COLLAPSE_ALARM:g}); look at the sample clips"
    )


def _first_process_values(values: dict[str, float]) -> dict[str, float]:
    """What the first process measured, on all: they must agree on what is best."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        shared: list[Any] = [values]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]
    return values


def _timed(call: Callable[[], dict[str, float]]) -> tuple[dict[str, float], float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


@contextlib.contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and the global random state are what they were before, whatever a measurement does."""
    training = network.training
    network.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        network.train(training)
