"""Streaming long tuning: each microbatch goes on with a long video of its own from update to update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import nn

from harness.methods.long_sequence import LongSequence


class LongTuning(Algorithm):
    """Hands the method the sequence of a microbatch before its forward pass, and cuts it from the graph afterwards.

    What a process carries from one update to the next is part of the saved state, so that a resumed run goes on with
    the same videos: it stays bit-identical.

    method   the method, before any distributed wrapper, with `generator` and `sequence`
    make     gives a sequence that has not begun
    """

    def __init__(self, method: nn.Module, make: Callable[[], LongSequence]) -> None:
        self.method = method
        self.make = make
        self.sequences: list[LongSequence] = []  # per microbatch of this process
        self._microbatch = 0

    def match(self, event: Event, state: State) -> bool:
        """At the start of each batch, before each forward pass, and after each backward pass."""
        return event in (Event.BATCH_START, Event.BEFORE_FORWARD, Event.AFTER_BACKWARD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Count the microbatches; give each its own."""
        if event == Event.BATCH_START:
            self._microbatch = 0
            return
        if event == Event.AFTER_BACKWARD:
            self.sequences[self._microbatch - 1].detach()
            return
        if self._microbatch == len(self.sequences):
            self.sequences.append(self.make())
        self.method.sequence = self.sequences[self._microbatch]  # type: ignore[assignment]
        self._microbatch += 1

    def state_dict(self) -> dict[str, Any]:
        """The sequences of this process."""
        return {"sequences": [sequence.state_dict() for sequence in self.sequences]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sequences as they were before the interruption, where the generator is."""
        device = next(self.method.get_submodule("generator").parameters()).device
        self.sequences = [self.make() for _ in state["sequences"]]
        for sequence, saved in zip(self.sequences, state["sequences"], strict=True):
            sequence.load_state_dict(saved, device)
