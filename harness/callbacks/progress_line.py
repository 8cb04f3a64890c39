"""One line on standard error now and then: phase, update, loss, time gone and time left."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from composer.core import Callback, State
from composer.loggers import Logger

from harness.algorithms.updates import UpdateOrder
from harness.callbacks.history import History


def clock(seconds: float) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class ProgressLine(Callback):
    """Prints about every `interval` seconds, or at every tenth of the run where that comes later; and at the end.

    title      names the run
    order      gives the number of updates
    history    gives the last loss
    interval   seconds between lines
    silent     print nothing (all processes but the first)
    """

    def __init__(
        self,
        title: str,
        *,
        order: UpdateOrder,
        history: History,
        interval: float = 10.0,
        silent: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.title = title
        self.order = order
        self.history = history
        self.interval = interval
        self.silent = silent
        self.stream = stream
        self._start = self._last = time.perf_counter()
        self._first_batch = 0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin to count time; say where an interrupted run goes on."""
        self._start = self._last = time.perf_counter()
        self._first_batch = state.timestamp.batch.value
        if self._first_batch:
            self._print(f"goes on after batch {self._first_batch} of {self.order.batches}")

    def batch_end(self, state: State, logger: Logger) -> None:
        """Print when it is time."""
        batches, now = state.timestamp.batch.value, time.perf_counter()
        if batches != self.order.batches and now - self._last < self.interval:
            return
        self._last = now
        elapsed = now - self._start
        left = elapsed / max(batches - self._first_batch, 1) * (self.order.batches - batches)
        update, total = self.order.done(batches)["generator"], self.order.generator_updates
        phase = self.order.role(batches - 1)
        loss = self.history.last.get("loss")
        shown = "" if loss is None else f", loss {loss:.4g}"
        self._print(f"{phase}, update {update}/{total}{shown}, {clock(elapsed)} gone, {clock(left)} left")

    def _print(self, text: str) -> None:
        if not self.silent:
            print(f"{self.title}: {text}", file=self.stream or sys.stderr, flush=True)
