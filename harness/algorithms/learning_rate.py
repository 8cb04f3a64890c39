"""Learning rates by role, as a function of that role's own update counter."""

from __future__ import annotations

from collections.abc import Mapping

from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from harness.algorithms.updates import Role, UpdateOrder
from harness.config.schema import AdamWConfig


def rate_factor(update: int, total: int, config: AdamWConfig) -> float:
    """What `lr` is multiplied with at update number `update` (from 0) of `total`.

    Linear warm-up over `warmup_updates` (the first update has 1/`warmup_updates`), a hold until `hold_fraction` of all
    updates is done, then a linear decay that reaches `final_fraction` at the last update.
    """
    warmup = min((update + 1) / config.warmup_updates, 1.0) if config.warmup_updates else 1.0
    hold_end = config.hold_fraction * total
    if update < hold_end or total - 1 <= hold_end:
        return warmup
    decayed = (update - hold_end) / (total - 1 - hold_end)
    return warmup * (1.0 + (config.final_fraction - 1.0) * decayed)


class RoleLearningRates(Algorithm):
    """Sets the learning rate of the group whose turn it is, before the batch. Stateless.

    Composer's own schedulers multiply all groups by one factor of one counter; generator and critic have their own.
    """

    def __init__(self, order: UpdateOrder, configs: Mapping[Role, AdamWConfig]) -> None:
        self.order = order
        self.configs = dict(configs)

    def match(self, event: Event, state: State) -> bool:
        """Before each batch."""
        return event == Event.BATCH_START

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Set the rate of the update to come."""
        batch = state.timestamp.batch.value
        role = self.order.role(batch)
        config = self.configs[role]
        factor = rate_factor(self.order.done(batch)[role], self.order.total(role), config)
        for group in state.optimizers[0].param_groups:
            if group["name"] == role:
                group["lr"] = config.lr * factor
