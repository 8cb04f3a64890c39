"""Whose turn it is: the order of generator and critic updates, as a pure function of the batch counter.

A batch is one optimizer step. First `warmup` critic updates; then cycles of one generator update followed by `ratio`
critic updates, the generator first, each on its own batch, as the reference does (Self-Forcing, arXiv 2506.08009).
Training ends with the last generator update: the critic updates that would complete its cycle change no sample, and two
runs with the same number of generator updates have then spent exactly what shaped their generators. So N generator
updates come with `warmup + (N − 1)·ratio` critic updates. Supervised training is the case without a critic.
"""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt

from harness.config.schema import RunConfig

Role = Literal["generator", "critic"]


@frozen(kw_only=True)
class UpdateOrder:
    """`generator_updates` in all, `ratio` critic updates between two, `warmup` critic updates before the first."""

    generator_updates: int = field(validator=gt(0))
    ratio: int = field(default=0, validator=ge(0))
    warmup: int = field(default=0, validator=ge(0))

    @property
    def batches(self) -> int:
        """Number of batches of the whole run."""
        return self.warmup + (self.generator_updates - 1) * (1 + self.ratio) + 1

    def role(self, batch: int) -> Role:
        """The network that batch number `batch` (from 0) updates."""
        turn = batch - self.warmup
        return "generator" if turn >= 0 and turn % (1 + self.ratio) == 0 else "critic"

    def critic_updates_from(self, batch: int) -> int:
        """Critic updates in a row from batch number `batch` on, itself included: the generator stays the same."""
        if self.role(batch) == "generator":
            return 0
        if batch < self.warmup:
            return self.warmup - batch
        return 1 + self.ratio - (batch - self.warmup) % (1 + self.ratio)

    def done(self, batches: int) -> dict[Role, int]:
        """Updates of each network in the first `batches` batches."""
        after_warmup = max(batches - self.warmup, 0)
        generator = -(-after_warmup // (1 + self.ratio))
        return {"generator": generator, "critic": batches - generator}

    def total(self, role: Role) -> int:
        """Updates of one network in the whole run."""
        return self.done(self.batches)[role]


def update_order(config: RunConfig) -> UpdateOrder:
    """The order that a run's configuration asks for."""
    if config.method == "dmd":
        return UpdateOrder(
            generator_updates=config.dmd.generator_updates,
            ratio=config.dmd.critic_updates_per_generator_update,
            warmup=config.dmd.critic_warmup_updates,
        )
    method = config.sft if config.method == "sft" else config.causal_sft
    return UpdateOrder(generator_updates=method.updates)
