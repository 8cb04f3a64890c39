"""Forward passes, floating point operations and time of a run, before it runs.

The method's own code is run with networks that only have shapes; each call is counted as the training's meter counts it
(`harness.callbacks.flops`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from attrs import asdict, evolve, field, frozen
from torch import Tensor, nn

from harness.algorithms.updates import Role, update_order
from harness.callbacks.flops import DenoiserCost
from harness.config.schema import LoRAConfig
from harness.methods.draws import Draws
from harness.models.causal_wan import CausalWan
from harness.models.lora import add_adapters
from harness.planning.rehearsal import build_method, make_batch
from harness.planning.scene import Scene

# Dense bf16 peak of one device, in TFLOP/s, from the makers' data sheets (without sparsity).
DEVICES = {"a100": 312.0, "h100": 989.0, "h200": 989.0, "b200": 2250.0, "l40s": 362.0, "a6000": 155.0, "rtx4090": 165.0}


@frozen
class Work:
    """Calls of a network of one kind, and their floating point operations, forward and backward."""

    calls: float = 0.0
    flops: float = 0.0
    repeated: float = 0.0  # FLOPs of the forward passes that activation checkpointing repeats

    def plus(self, other: Work, times: float = 1.0) -> Work:
        """The sum, the other one weighted."""
        return Work(
            self.calls + times * other.calls, self.flops + times * other.flops, self.repeated + times * other.repeated
        )


WorkOf = dict[tuple[str, str], Work]  # (role, kind of pass) → work


@frozen
class Silhouette:
    """What is left of a network when only shapes count: the cost of its calls, and an output of the right shape."""

    cost: DenoiserCost
    channels: int
    config: Mapping[str, Any]


class _Shadow(nn.Module):
    """Answers as a denoiser would, and counts what the answer would have cost."""

    def __init__(self, role: str, shape: Silhouette, found: WorkOf, checkpointed: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), device="meta"))  # what a gradient can reach
        self.role, self.shape, self.found, self.checkpointed = role, shape, found, checkpointed
        self.config = shape.config

    def forward(self, **arguments: Any) -> tuple[Tensor]:
        """A velocity of no particular value."""
        x: Tensor = arguments["hidden_states"]
        cache, writes = arguments.get("cache"), arguments.get("write_cache", False)
        flops = self.shape.cost.of((), arguments)
        source = (arguments["encoder_hidden_states"], arguments.get("encoder_hidden_states_image"))
        learns = torch.is_grad_enabled() and self.scale.requires_grad
        kind = "with gradient" if learns else "to fill the cache" if writes else "without gradient"
        work = Work(1, 3 * flops if learns else flops, flops if learns and self.checkpointed else 0)
        self.found[self.role, kind] = self.found.get((self.role, kind), Work()).plus(work)
        if cache is not None:
            if not torch.is_grad_enabled():
                cache.store_condition(source, 0, None)
            if writes:
                cache.commit(arguments.get("frame_offset", 0), x.shape[2], ())
        return (x[:, : self.shape.channels] * self.scale,)


@functools.lru_cache(maxsize=32)
def silhouette(shape: Any, lora: LoRAConfig | None = None) -> Silhouette:
    """Of a network of this geometry, with adapters if they are named, from the network itself on the meta device."""
    with torch.device("meta"):
        network = CausalWan(**asdict(shape))
        if lora is not None:
            add_adapters(network, lora, seed=0)
        return Silhouette(DenoiserCost(network), shape.out_channels, asdict(shape))


def work_of_pass(scene: Scene, phase: Role, exit_step: int) -> WorkOf:
    """One forward and backward pass over one sample that updates `phase`, where every block leaves its rollout at this
    index of the denoising steps.
    """
    rollout = scene.config.rollout
    rollout = evolve(rollout, exit_step="last", denoising_steps=rollout.denoising_steps[: exit_step + 1])
    config = evolve(scene.config, rollout=rollout)
    found: WorkOf = {}
    networks = {
        role: _Shadow(
            role,
            silhouette(shape, config.lora if config.lora.rank is not None and role in scene.trained else None),
            found,
            checkpointed=config.parallelism.activation_checkpointing and role in scene.trained,
        )
        for role, shape in scene.networks
    }
    method = build_method(evolve(scene, config=config), networks)
    method.draws = Draws.at(0, 0)  # type: ignore[assignment]
    if config.method == "dmd":
        method.phase = phase  # type: ignore[assignment]
    method(make_batch(scene, 1))
    return found


def exit_chances(scene: Scene, together: int) -> dict[int, float]:
    """Exit step → chance that it is the latest of `together` rollouts', each with an exit step of its own."""
    rollout = scene.config.rollout
    steps = len(rollout.denoising_steps)
    if scene.config.method != "dmd" or rollout.exit_step == "last":
        return {steps - 1: 1.0}
    return {e: ((e + 1) / steps) ** together - (e / steps) ** together for e in range(steps)}


def work_per_update(scene: Scene, phase: Role) -> WorkOf:
    """The mean work of one process in one update of `phase`, with all its microbatches.

    Rollouts that run together need fewer calls, not fewer operations.
    """
    result: WorkOf = {}
    together = scene.rollouts_together if phase == "critic" else 1
    alone, latest = exit_chances(scene, 1), exit_chances(scene, together)
    for exit_step in alone:
        for key, work in work_of_pass(scene, phase, exit_step).items():
            shared = key[0] == "generator" and together > 1
            calls = latest[exit_step] / together if shared else alone[exit_step]
            mean = Work(
                calls * work.calls * scene.microbatches,
                alone[exit_step] * work.flops * scene.share,
                alone[exit_step] * work.repeated * scene.share,
            )
            result[key] = result.get(key, Work()).plus(mean)
    return result


@frozen(kw_only=True)
class Budget:
    """What a run costs, over all processes."""

    updates: Mapping[Role, int]
    per_update: Mapping[Role, WorkOf] = field(repr=False)  # of one process
    world_size: int

    @property
    def batches(self) -> int:
        """Batches that are read: one for each update."""
        return sum(self.updates.values())

    def of(self, phase: Role) -> Work:
        """One update of a network, over all processes; calls are those of one process."""
        total = Work()
        for work in self.per_update[phase].values():
            total = total.plus(Work(work.calls, work.flops * self.world_size, work.repeated * self.world_size))
        return total

    @property
    def whole(self) -> Work:
        """The run, over all processes; calls are those of one process."""
        total = Work()
        for phase, count in self.updates.items():
            total = total.plus(self.of(phase), count)
        return total

    def seconds(self, teraflops: float, utilization: float) -> float:
        """Time at a share of the peak of one device. Repeated forward passes take time too, and count here."""
        return (self.whole.flops + self.whole.repeated) / (self.world_size * teraflops * 1e12 * utilization)


def budget(scene: Scene) -> Budget:
    """The cost of a run."""
    order = update_order(scene.config)
    return Budget(
        updates={role: order.total(role) for role in scene.trained},
        per_update={role: work_per_update(scene, role) for role in scene.trained},
        world_size=scene.world_size,
    )
