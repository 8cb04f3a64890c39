"""Alternating updates of generator and critic under one optimizer."""

from __future__ import annotations

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import nn

from harness.algorithms.updates import UpdateOrder


def drop_gradients(network: nn.Module) -> None:
    """Give every parameter the gradient None: AdamW then skips it; a gradient of zero would still decay and move it."""
    for parameter in network.parameters():
        parameter.grad = None


class AlternatingUpdates(Algorithm):
    """Tells the method before each batch whose turn it is, and keeps the other network's weights and moments untouched.

    The turn follows from the number of the batch, so there is nothing to save.

    method   the method with `phase`, `generator` and `critic`, before any distributed wrapper
    order    the order of updates
    """

    def __init__(self, method: nn.Module, order: UpdateOrder) -> None:
        self.method = method
        self.order = order

    @property
    def find_unused_parameters(self) -> bool:
        """DDP must not wait for the gradients of the network that rests."""
        return True

    def match(self, event: Event, state: State) -> bool:
        """Before the batch, and between its last backward pass and the optimizer's step."""
        return event in (Event.BATCH_START, Event.AFTER_TRAIN_BATCH)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Set the phase; after the backward pass, drop what gradients the resting network may have got."""
        role = self.order.role(state.timestamp.batch.value)
        if event == Event.BATCH_START:
            self.method.phase = role  # type: ignore[assignment]
        else:
            drop_gradients(self.method.get_submodule("critic" if role == "generator" else "generator"))
