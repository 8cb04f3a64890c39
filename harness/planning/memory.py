"""Bytes that one process holds on its device, part by part, at the worst moment of training.

Weights are float32, and the optimizer's own: there is no second copy of them. What lives through the whole run is a sum
over parameters; the rest comes from a rehearsal (`harness.planning.rehearsal`).
"""

from __future__ import annotations

import functools

import torch
from attrs import asdict, frozen

from harness.algorithms.updates import Role
from harness.models.causal_wan import CausalWan
from harness.models.presets import WanGeometry
from harness.planning.meter import Bytes
from harness.planning.rehearsal import GRADIENTS, extrapolate
from harness.planning.scene import Scene
from harness.rollout.few_step import num_blocks

FLOAT = 4  # bytes
FSDP, MOMENTS = "gathered by FSDP", ": Adam moments"
# Layers that are whole at a time besides the shards, from torch's source: FSDP1 computes with one and gathers the next;
# FSDP2 also copies the next out of what it has gathered. Backward adds the layer's whole gradient and its copy to be
# reduced.
GATHERED = {"fsdp1": 2, "fsdp2": 3}
REDUCED = 2


@frozen
class Parameters:
    """Number of a network's parameters: all, and those of one layer."""

    all: int
    layer: int
    layers: int

    @property
    def root(self) -> int:
        """Outside of the layers, where FSDP keeps them together."""
        return self.all - self.layers * self.layer


@frozen
class Moment:
    """What is held at one moment, by part; `when` says which one."""

    when: str
    parts: Bytes

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())


@functools.lru_cache(maxsize=32)
def count_parameters(shape: WanGeometry) -> Parameters:
    """Parameters of a network of this geometry, from the network itself on the meta device."""
    with torch.device("meta"):
        network = CausalWan(**{**asdict(shape, recurse=False), "num_layers": 1})
    layer = sum(parameter.numel() for parameter in network.blocks.parameters())
    root = sum(parameter.numel() for parameter in network.parameters()) - layer
    return Parameters(all=root + shape.num_layers * layer, layer=layer, layers=shape.num_layers)


def held_throughout(scene: Scene) -> Bytes:
    """Weights, moments and averages: what one process holds from the first update to the last."""
    parallelism = scene.config.parallelism
    counts = {role: count_parameters(shape) for role, shape in scene.networks}
    parts: Bytes = {}
    for role, count in counts.items():
        offloaded = role == "teacher" and parallelism.teacher_cpu_offload
        parts[f"{role}: weights"] = FLOAT * (count.root if offloaded else count.all) // scene.shards
    for role in scene.trained:
        parts[f"{role}{MOMENTS}"] = 2 * FLOAT * counts[role].all // scene.shards
    parts["generator: EMA"] = FLOAT * counts["generator"].all // scene.shards
    if parallelism.kind == "ddp" and scene.world_size > 1:
        parts["buckets of DDP"] = sum(FLOAT * counts[role].all for role in scene.trained)
    return parts


def gathered(scene: Scene) -> int:
    """Bytes that FSDP holds besides the shards, at the most: whole layers on their way, and what is in no layer."""
    parallelism = scene.config.parallelism
    if parallelism.kind == "ddp" or scene.shards == 1:
        return 0
    sizes = []
    for role, shape in scene.networks:
        count = count_parameters(shape)
        layers = GATHERED[parallelism.kind] + (REDUCED if role in scene.trained else 0)
        if role == "generator" and not parallelism.reshard_after_forward:
            layers += count.layers
        sizes.append(FLOAT * (count.root + layers * count.layer))
    return max(sizes)


def unreduced(scene: Scene) -> Bytes:
    """What FSDP cannot spread while a causal rollout's backward pass runs.

    A gradient that comes from several passes, one for each block of frames, is complete, and reduced, only when the
    last of them has been gone through: until then each layer's whole gradient waits. FSDP1 keeps the layers' weights
    gathered too.
    """
    config = scene.config
    rollout = config.rollout
    if config.method != "dmd" or scene.shards == 1 or rollout.attention == "bidirectional":
        return {}
    blocks = min(num_blocks(rollout, config.frames), -(-rollout.gradient_frames // rollout.frames_per_block))
    if blocks < 2:
        return {}
    copies = 2 if config.parallelism.kind == "fsdp1" else 1
    return {"gradients of earlier blocks": copies * FLOAT * count_parameters(dict(scene.networks)["generator"]).all}


def moments(scene: Scene) -> list[Moment]:
    """The moments at which memory may be highest, the highest first."""
    always, found = held_throughout(scene), []
    buffers = {FSDP: gathered(scene)} if scene.shards > 1 else {}
    for role in scene.trained:
        parts = _rehearsed(scene, role)
        waiting = unreduced(scene) if role == "generator" else {}
        found.append(Moment(f"an update of the {role}", {**always, **buffers, **parts, **waiting}))
    whole = FLOAT * count_parameters(dict(scene.networks)["generator"]).all // scene.shards
    copy = {GRADIENTS: whole, "a second copy of the generator": whole}
    found.append(Moment("the average takes the weights' place, or begins", {**always, **copy}))
    kept = sum(size for name, size in always.items() if name.endswith(MOMENTS))
    on_host = scene.config.precision == "bf16"  # then the device is a GPU, and the copy is not on it
    copied = {} if on_host else {"a copy of the moments": kept}
    found.append(Moment("a resume state is saved", {**always, GRADIENTS: whole, **copied}))
    return sorted(found, key=lambda moment: -moment.total)


@functools.lru_cache(maxsize=256)
def _rehearsed(scene: Scene, role: Role) -> Bytes:
    return extrapolate(scene, role)
