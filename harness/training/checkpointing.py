"""Saving and restoring the whole state of a run, so that an interruption at any moment changes no bit of the result."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from composer.core import Callback, State, Timestamp
from composer.loggers import Logger
from composer.utils import dist
from streaming import StreamingDataset
from torch import nn

from harness.algorithms.shards import local, local_parameters
from harness.errors import HarnessError
from harness.training.state_files import newest_good, read_state, write_state

COUNTERS = ("epoch", "batch", "sample", "token", "batch_in_epoch", "sample_in_epoch", "token_in_epoch")


class Stateful(Protocol):
    """Something with a state of plain values and tensors."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        ...


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Per parameter, in the order of the groups: this process's part of its moments, copied to host memory; empty if it
    was never updated.
    """
    return [
        {
            name: local(value).to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
            for name, value in known.items()
        }
        for known in (
            optimizer.state.get(parameter, {}) for group in optimizer.param_groups for parameter in group["params"]
        )
    ]


@torch.no_grad()
def load_optimizer_state(optimizer: torch.optim.Optimizer, states: list[dict[str, Any]]) -> None:
    """Put back what `optimizer_state` gave, shaped and sharded as the parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, saved in zip(parameters, states, strict=True):
        optimizer.state.pop(parameter, None)
        for name, value in saved.items():
            if isinstance(value, torch.Tensor) and value.shape == local(parameter.detach()).shape and name != "step":
                moment = torch.zeros_like(parameter)
                local(moment).copy_(value)
                value = moment
            elif name == "step":  # the fused kernel reads it where the weights are
                value = value.to(local(parameter.detach()).device)
            optimizer.state[parameter][name] = value


class Checkpointing(Callback):
    """Saves every so many batches and restores the newest good state when training starts.

    Saved are weights (of the trained networks: the others never change), moments, counters, the position in the data,
    and what the named parts keep. Randomness follows from the counters.

    root          folder of the run's states
    stage         what kind of run it is, in words, for messages
    fingerprint   of the run; another run's state is refused
    every         batches between states
    keep          states that stay, the newest ones
    batches       of the whole run: the end is saved too
    method        has the trained networks under the names in `roles`
    parts         algorithms and callbacks with a state, by name; restored in this order
    """

    def __init__(
        self,
        root: Path,
        *,
        stage: str,
        fingerprint: str,
        every: int,
        keep: int,
        batches: int,
        method: nn.Module,
        roles: Sequence[str],
        parts: Mapping[str, Stateful],
    ) -> None:
        self.root = root
        self.stage = stage
        self.fingerprint = fingerprint
        self.every = every
        self.keep = keep
        self.batches = batches
        self.method = method
        self.roles = tuple(roles)
        self.parts = dict(parts)

    def after_load(self, state: State, logger: Logger) -> None:
        """Restore the newest good state, if there is one."""
        rank = dist.get_global_rank()
        batch = newest_good(
            self.root,
            stage=self.stage,
            fingerprint=self.fingerprint,
            world_size=dist.get_world_size(),
            rank=rank,
            gather=dist.all_gather_object,
            tell=lambda text: print(text, file=sys.stderr) if rank == 0 else None,
        )
        if batch is None:
            return
        saved = read_state(self.root, batch, rank)
        try:
            self._restore(state, saved)
        except (KeyError, TypeError, RuntimeError) as error:
            raise HarnessError(
                f"{self.root}: the saved state of batch {batch} does not hold what this run has ({error}). "
                "Delete that folder and run again: the run then starts anew"
            ) from error

    def _restore(self, state: State, saved: dict[str, Any]) -> None:
        with torch.no_grad():
            for role in self.roles:
                for name, weight in local_parameters(self.method.get_submodule(role)).items():
                    weight.copy_(saved["weights"][role][name])
        load_optimizer_state(state.optimizers[0], saved["moments"])
        state.timestamp = Timestamp(**saved["timestamp"])
        _seek(state, saved["timestamp"])
        for name, part in self.parts.items():
            part.load_state_dict(saved["parts"][name])

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save when it is time; comes after everything else that happens at the end of a batch."""
        batch = state.timestamp.batch.value
        if batch % self.every and batch != self.batches:
            return
        write_state(
            self.root,
            batch,
            {
                "weights": {role: local_parameters(self.method.get_submodule(role)) for role in self.roles},
                "moments": optimizer_state(state.optimizers[0]),
                "timestamp": _counters(state),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
            },
            stage=self.stage,
            fingerprint=self.fingerprint,
            rank=dist.get_global_rank(),
            world_size=dist.get_world_size(),
            gather=dist.all_gather_object,
            keep=self.keep,
        )


def _counters(state: State) -> dict[str, int]:
    """Composer's counters; the end of an epoch is written as the beginning of the next."""
    timestamp = state.timestamp
    if state.dataloader_len is not None and timestamp.batch_in_epoch >= state.dataloader_len:
        timestamp = timestamp.to_next_epoch()
    return {name: getattr(timestamp, name).value for name in COUNTERS}


def _seek(state: State, counters: dict[str, int]) -> None:
    """Put a streaming dataset at its place; Composer itself skips the batches of other loaders."""
    dataset = getattr(state.train_dataloader, "dataset", None)
    if isinstance(dataset, StreamingDataset):
        position = dataset.state_dict(counters["sample_in_epoch"], True)
        dataset.load_state_dict({**position, "epoch": counters["epoch"]})
        state.dataset_resumption["train"] = True
