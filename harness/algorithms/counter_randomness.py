"""Randomness by counters: generators are named by their place in the run, so none has to be saved."""

from __future__ import annotations

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import nn

from harness.methods.draws import Draws
from harness.seeding import generator_for


def draws_at(seed: int, batch: int, piece: int) -> Draws:
    """The generators of one forward pass.

    `piece` is the place of the microbatch in the *global* batch (rank · microbatches per rank + microbatch): two
    processes with one microbatch each draw what one process with two microbatches draws. `shared` depends on the batch
    alone, so all ranks (and microbatches) take the same number of forward passes.
    """
    return Draws(local=generator_for(seed, "local", batch, piece), shared=generator_for(seed, "shared", batch))


class CounterRandomness(Algorithm):
    """Sets `method.draws` before each forward pass.

    method         the method, before any distributed wrapper
    seed           of the run
    rank           this process's number
    microbatches   microbatches in each process's batch
    """

    def __init__(self, method: nn.Module, *, seed: int, rank: int = 0, microbatches: int = 1) -> None:
        self.method = method
        self.seed = seed
        self.first_piece = rank * microbatches
        self._microbatch = 0

    def match(self, event: Event, state: State) -> bool:
        """At the start of each batch (to count its microbatches) and before each forward pass."""
        return event in (Event.BATCH_START, Event.BEFORE_FORWARD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Name the place, make its generators."""
        if event == Event.BATCH_START:
            self._microbatch = 0
            return
        self.method.draws = self.draws(state.timestamp.batch.value, self._microbatch)  # type: ignore[assignment]
        self._microbatch += 1

    def draws(self, batch: int, microbatch: int) -> Draws:
        """The generators of one of this process's forward passes, of any batch."""
        return draws_at(self.seed, batch, self.first_piece + microbatch)
