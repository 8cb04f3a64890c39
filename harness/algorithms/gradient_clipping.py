"""Clipping by the norm of one network's gradient, and the refusal to step on a gradient that is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor, nn

from harness.algorithms.shards import local
from harness.algorithms.updates import Role, UpdateOrder
from harness.errors import HarnessError


@torch.no_grad()
def clip_gradients(gradients: Iterable[Tensor], max_norm: float, *, copies: int | None = None) -> Tensor:
    """Scale gradients in place so that their joint norm is at most `max_norm`; returns the norm before (a scalar).

    With `copies`, each process holds its part of every gradient, and all processes together hold so many copies of it:
    the squares are summed over the processes. A norm that is not finite leaves the gradients as they are.
    """
    parts = [local(gradient) for gradient in gradients]
    if parts:
        squares = torch.stack([part.norm() for part in parts]).float().square().sum()
    else:
        squares = torch.zeros(())
    if copies is not None:
        dist.all_reduce(squares)
        squares /= copies
    norm = squares.sqrt()
    if torch.isfinite(norm) and norm > max_norm:
        scale = max_norm / float(norm)
        for part in parts:
            part.mul_(scale)
    return norm


class GradientClipping(Algorithm):
    """Clips the network whose turn it is, on its own (reference: 10 for each); `norm` is the last norm before clipping.

    method      has a network per role
    max_norms   role → `clip_norm`
    order       tells whose turn it is
    copies      with FSDP: whole copies of the gradients that the processes hold together (1, or more if hybrid)
    """

    def __init__(
        self,
        method: nn.Module,
        max_norms: Mapping[Role, float],
        order: UpdateOrder,
        *,
        copies: int | None = None,
    ) -> None:
        self.method = method
        self.max_norms = dict(max_norms)
        self.order = order
        self.copies = copies
        self.norm = 0.0

    def match(self, event: Event, state: State) -> bool:
        """Between the last backward pass of a batch and the optimizer's step."""
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Clip. Raises HarnessError, before the step is made, if the gradient is not finite."""
        batch = state.timestamp.batch.value
        role = self.order.role(batch)
        gradients = [p.grad for p in self.method.get_submodule(role).parameters() if p.grad is not None]
        self.norm = float(clip_gradients(gradients, self.max_norms[role], copies=self.copies))
        if self.norm != self.norm or self.norm == float("inf"):
            update = self.order.done(batch)[role] + 1
            raise HarnessError(
                f"the gradient of the {role} is not finite (its norm is {self.norm}) at {role} update {update}, batch "
                f"{batch}. That update was not made; the last saved state is good. Lower the {role}'s learning rate or "
                "raise its warmup_updates; history.csv shows how it came"
            )
