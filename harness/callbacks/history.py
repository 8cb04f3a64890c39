"""The run's own history: one row per logged batch, flushed; trackers mirror it, nothing else is the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from composer.core import Callback, State
from composer.loggers import Logger
from torch import Tensor

from harness.algorithms.generator_ema import GeneratorEMA
from harness.algorithms.gradient_clipping import GradientClipping
from harness.algorithms.shards import local_parameters
from harness.algorithms.updates import UpdateOrder
from harness.callbacks.compute_meter import ComputeMeter
from harness.callbacks.table import Table

COLUMNS = (
    "batch",  # number of batches done
    "update",  # generator updates done
    "critic_update",
    "phase",  # the network that this batch updated
    "loss",
    "grad_norm",  # before clipping
    "lr",
    "ema_distance",  # after a generator update
    "seconds",  # wall time of this batch
    "teraflops",  # counted so far
    "device_seconds",  # so far
)


class History(Callback):
    """Writes `history.csv`.

    path       the file
    every      batches between rows; the last batch has a row in any case
    order      says which network a batch updates
    clipping   knows the gradient's norm
    meter      knows what was spent
    ema        knows the averaged weights; without it their distance is not written
    writes     whether this process writes the file (the first of several does)
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        order: UpdateOrder,
        clipping: GradientClipping,
        meter: ComputeMeter,
        ema: GeneratorEMA | None = None,
        writes: bool = True,
    ) -> None:
        self.every = every
        self.order = order
        self.clipping = clipping
        self.meter = meter
        self.ema = ema
        self.table = Table(path, COLUMNS) if writes else None
        self.last: dict[str, Any] = {}
        self._sums: dict[str, Tensor] = {}
        self._samples = 0

    def _logged(self, batches: int) -> bool:
        return batches % self.every == 0 or batches == self.order.batches

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin anew if the run does."""
        if self.table is not None and state.timestamp.batch.value == 0:
            self.table.restart()

    def batch_start(self, state: State, logger: Logger) -> None:
        """Begin the means over the batch's microbatches."""
        self._sums, self._samples = {}, 0

    def after_loss(self, state: State, logger: Logger) -> None:
        """Add a microbatch, weighted by its samples."""
        if not self._logged(state.timestamp.batch.value + 1):
            return
        outputs: Any = state.outputs
        samples = outputs_samples(state)
        values = {"loss": outputs["loss"], **outputs["metrics"]}
        for name, value in values.items():
            value = torch.as_tensor(value).detach().float() * samples
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._samples += samples

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the row of a batch that is logged."""
        batches = state.timestamp.batch.value
        if not self._logged(batches):
            return
        role = self.order.role(batches - 1)
        done = self.order.done(batches)
        means = self._means()
        self.last = {
            "batch": batches,
            "update": done["generator"],
            "critic_update": done["critic"],
            "phase": role,
            "loss": means.pop("loss"),
            "grad_norm": self.clipping.norm,
            "lr": next(group["lr"] for group in state.optimizers[0].param_groups if group["name"] == role),
            "seconds": round(self.meter.batch_seconds, 4),
            "teraflops": self.meter.teraflops,
            "device_seconds": round(self.meter.device_seconds * self.meter.world_size, 3),
            **means,
        }
        if self.ema is not None and role == "generator":
            self.last["ema_distance"] = ema_distance(self.ema)
        if self.table is not None:
            self.table.append(self.last)

    def _means(self) -> dict[str, float]:
        """Means over microbatches and processes."""
        names = list(self._sums)
        device = self._sums["loss"].device
        means = torch.stack([self._sums[name].to(device) for name in names]) / max(self._samples, 1)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(means)
            means /= dist.get_world_size()
        return dict(zip(names, means.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The number of rows that belong to the state being saved."""
        if self.table is None:
            return {"rows": 0}
        self.table.sync()
        return {"rows": self.table.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut off the rows that were written after the state was saved."""
        if self.table is not None:
            self.table.truncate(state["rows"])


@torch.no_grad()
def ema_distance(ema: GeneratorEMA) -> float:
    """‖average − weights‖ / ‖weights‖ of the generator: settles in training; only grows where the average stands still.

    Summed over processes, which hold shards (or equal copies, which changes no ratio).
    """
    weights = local_parameters(ema.network)
    squares = torch.stack(
        [
            torch.stack([(ema.shadow[name] - w.float()).square().sum(), w.float().square().sum()])
            for name, w in weights.items()
        ]
    ).sum(0)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(squares)
    apart, size = squares.sqrt().tolist()
    return apart / size if size else 0.0


def outputs_samples(state: State) -> int:
    """Number of samples in the current microbatch."""
    return len(state.batch["latent"])
