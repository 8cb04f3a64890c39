"""Bytes that one process holds on its device, part by part, at the worst moment of training.

Weights are float32, and the optimizer's own: there is no second copy of them. What lives through the whole run is a sum
over parameters; the rest comes from a rehearsal (`harness.planning.rehearsal`).
"""

from __future__ import annotations

import functools

import torch
from attrs import asdict, frozen

from harness.algorithms.updates import Role
from harness.config.schema import LoRAConfig
from harness.models.causal_wan import CausalWan
from harness.models.lora import choose, linear_names
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


@functools.lru_cache(maxsize=32)
def _adapted(shape: WanGeometry, targets: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """The weights, on the meta device, that get an adapter."""
    with torch.device("meta"):
        network = CausalWan(**{**asdict(shape, recurse=False), "num_layers": 1})
    kinds = {name.split(".", 2)[2]: network.get_submodule(name).weight for name in linear_names(network)}
    names = [f"blocks.{number}.{kind}" for number in range(shape.num_layers) for kind in kinds]
    return tuple(kinds[name.split(".", 2)[2]] for name in choose(names, targets))  # type: ignore[misc]


def count_adapters(shape: WanGeometry, lora: LoRAConfig) -> Parameters:
    """Parameters of a network's adapters, all of them in its layers; of one layer: the mean."""
    total = sum((lora.rank or 0) * sum(weight.shape) for weight in _adapted(shape, lora.targets))
    return Parameters(all=total, layer=-(-total // shape.num_layers), layers=shape.num_layers)


def adapted_weights(shape: WanGeometry, lora: LoRAConfig) -> int:
    """Number of the weights into which adapters are merged when the network is saved."""
    return sum(weight.numel() for weight in _adapted(shape, lora.targets))


def count_trained(scene: Scene, role: str) -> Parameters:
    """Parameters of a network that have a gradient."""
    shape = dict(scene.networks)[role]
    if role not in scene.trained:
        return Parameters(all=0, layer=0, layers=shape.num_layers)
    return count_parameters(shape) if scene.config.lora.rank is None else count_adapters(shape, scene.config.lora)


def count_held(scene: Scene, role: str) -> Parameters:
    """All parameters of a network, adapters among them; of a teacher that shares the critic's, none."""
    shape = dict(scene.networks)[role]
    if role == "teacher" and scene.config.lora.share_teacher:
        return Parameters(all=0, layer=0, layers=shape.num_layers)
    count = count_parameters(shape)
    if scene.config.lora.rank is None or role not in scene.trained:
        return count
    more = count_trained(scene, role)
    return Parameters(all=count.all + more.all, layer=count.layer + more.layer, layers=count.layers)


def held_throughout(scene: Scene) -> Bytes:
    """Weights, moments and averages: what one process holds from the first update to the last."""
    parallelism = scene.config.parallelism
    parts: Bytes = {}
    for role, _ in scene.networks:
        offloaded = role == "teacher" and parallelism.teacher_cpu_offload
        count = count_held(scene, role)
        parts[f"{role}: weights"] = FLOAT * (count.root if offloaded else count.all) // scene.shards
    for role in scene.trained:
        parts[f"{role}{MOMENTS}"] = 2 * FLOAT * count_trained(scene, role).all // scene.shards
    parts["generator: EMA"] = FLOAT * count_trained(scene, "generator").all // scene.shards
    if parallelism.kind == "ddp" and scene.world_size > 1:
        parts["buckets of DDP"] = sum(FLOAT * count_trained(scene, role).all for role in scene.trained)
    return parts


def gathered(scene: Scene) -> int:
    """Bytes that FSDP holds besides the shards, at the most: whole layers on their way, and what is in no layer."""
    parallelism = scene.config.parallelism
    if parallelism.kind == "ddp" or scene.shards == 1:
        return 0
    sizes = []
    for role, _ in scene.networks:
        count = count_held(scene, role)
        layers = GATHERED[parallelism.kind]
        if role == "generator" and not parallelism.reshard_after_forward:
            layers += count.layers
        reduced = _with_gradient(scene, role).layer if role in scene.trained else 0
        sizes.append(FLOAT * (count.root + layers * count.layer + REDUCED * reduced))
    return max(sizes)


def _with_gradient(scene: Scene, role: str) -> Parameters:
    """What FSDP makes room for in a gradient: FSDP1, which joins a layer's parameters, for frozen ones too."""
    return (count_held if scene.config.parallelism.kind == "fsdp1" else count_trained)(scene, role)


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
    return {"gradients of earlier blocks": copies * FLOAT * _with_gradient(scene, "generator").all}


def moments(scene: Scene) -> list[Moment]:
    """The moments at which memory may be highest, the highest first."""
    always, found = held_throughout(scene), []
    buffers = {FSDP: gathered(scene)} if scene.shards > 1 else {}
    for role in scene.trained:
        parts = _rehearsed(scene, role)
        waiting = unreduced(scene) if role == "generator" else {}
        frozen = _with_gradient(scene, role).all - count_trained(scene, role).all if scene.shards > 1 else 0
        joined = {"gradients of frozen weights": FLOAT * frozen // scene.shards} if frozen else {}
        found.append(Moment(f"an update of the {role}", {**always, **buffers, **parts, **waiting, **joined}))
    whole = FLOAT * count_trained(scene, "generator").all // scene.shards
    copy = {GRADIENTS: whole, "a second copy of the generator": whole}
    found.append(Moment("the average takes the weights' place, or begins", {**always, **copy}))
    kept = sum(size for name, size in always.items() if name.endswith(MOMENTS))
    on_host = scene.config.precision == "bf16"  # then the device is a GPU, and the copy is not on it
    copied = {} if on_host else {"a copy of the moments": kept}
    found.append(Moment("a resume state is saved", {**always, GRADIENTS: whole, **copied}))
    lora = scene.config.lora
    if lora.rank is not None and not on_host:
        merged = FLOAT * adapted_weights(dict(scene.networks)["generator"], lora)
        found.append(Moment("merged weights are saved", {**always, **copy, "merged weights": merged}))
    return sorted(found, key=lambda moment: -moment.total)


@functools.lru_cache(maxsize=256)
def _rehearsed(scene: Scene, role: Role) -> Bytes:
    return extrapolate(scene, role)
