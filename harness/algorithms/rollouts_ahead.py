"""Rollouts ahead: the samples of the critic updates between two generator updates are made in one batch.

They come from the same generator, so it does not matter when they are made. The prompts are those of the batches to
come, the draws those of their places: the losses are those of a rollout per update, to rounding.
"""

from __future__ import annotations

from typing import Any

from composer.core import Algorithm, DataSpec, Event, State
from composer.loggers import Logger
from torch import nn

from harness.algorithms.counter_randomness import CounterRandomness
from harness.algorithms.updates import UpdateOrder
from harness.data.loader import Batch, LookAhead


class RolloutsAhead(Algorithm):
    """Gives the method what the next critic updates' rollouts are made from, and keeps the samples until their turn.

    At most `order.ratio` updates are made together, in the warm-up too; an epoch's end ends a group. Microbatch i of
    one batch is joined with microbatch i of the others. The samples that wait are part of the saved state, so that a
    resumed run makes none again, and in the same groups: it stays bit-identical.

    method       the method, before any distributed wrapper, with `made` and `upcoming`
    order        the order of updates
    data         how the Trainer prepares and cuts a batch
    batches      the loader that the Trainer reads, which can look ahead
    randomness   gives the draws of any place
    """

    def __init__(
        self, method: nn.Module, order: UpdateOrder, data: DataSpec, batches: LookAhead, randomness: CounterRandomness
    ) -> None:
        self.method = method
        self.order = order
        self.data = data
        self.batches = batches
        self.randomness = randomness
        self._made: list[list[dict[str, Any]]] = []  # per microbatch, in the order of the updates
        self._upcoming: list[list[Batch]] = []  # microbatches of the batches to come
        self._microbatch = 0

    def match(self, event: Event, state: State) -> bool:
        """At the start of each batch and before each forward pass."""
        return event in (Event.BATCH_START, Event.BEFORE_FORWARD)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Look ahead where a group begins; hand the microbatch its share."""
        if event == Event.BATCH_START:
            self._microbatch = 0
            waiting = any(self._made)
            self._upcoming = [] if waiting else [self._cut(b, state) for b in self.batches.peek(self._others(state))]
            return
        batch, number = state.timestamp.batch.value, self._microbatch
        self._microbatch += 1
        while len(self._made) <= number:
            self._made.append([])
        self.method.made = self._made[number]  # type: ignore[assignment]
        pieces = [
            self.data.microbatch_transforms(state.device.batch_to_device(pieces[number])) for pieces in self._upcoming
        ]
        self.method.upcoming = [  # type: ignore[assignment]
            (piece["latent"], piece["condition"], self.randomness.draws(batch + later, number))
            for later, piece in enumerate(pieces, start=1)
        ]

    def _others(self, state: State) -> int:
        """Critic updates whose samples are made with this batch's, besides itself: the same on all ranks."""
        count = min(self.order.critic_updates_from(state.timestamp.batch.value), self.order.ratio)
        if state.dataloader_len is not None:
            count = min(count, state.dataloader_len.value - state.timestamp.batch_in_epoch.value)
        return max(count - 1, 0)

    def _cut(self, batch: Batch, state: State) -> list[Batch]:
        assert state.device_train_microbatch_size is not None  # the Trainer has set it
        return list(self.data.split_batch(self.data.batch_transforms(batch), state.device_train_microbatch_size))

    def state_dict(self) -> dict[str, Any]:
        """The samples that wait for their turn."""
        return {"made": [list(samples) for samples in self._made]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the samples that were made before the interruption."""
        self._made = [list(samples) for samples in state["made"]]
