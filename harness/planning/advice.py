"""What to change when a run does not fit: combinations of changes in order of their price, judged by the same model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from harness.config.documents import merge, nest
from harness.config.load import structure, to_dict
from harness.config.schema import RunConfig
from harness.models.presets import MODELS
from harness.planning.memory import gathered, held_throughout, moments
from harness.planning.scene import Scene

SINK = 3  # latent frames that LongLive keeps for ever (arXiv 2509.22622)


@frozen
class Change:
    """One thing to change.

    words    as it is typed
    price    what it costs, in words
    weight   for the order in which changes are tried
    axis     changes of one axis exclude each other
    """

    words: str
    price: str
    weight: float
    axis: str
    settings: tuple[tuple[str, Any], ...] = ()
    world_size: int | None = None
    teacher: str | None = None

    def apply(self, scene: Scene) -> Scene:
        """The scene with the change."""
        # By keys as they are typed and read as a file is, so that what is advised is what was tried.
        changed = merge(to_dict(scene.config), nest(dict(self.settings)))
        config = structure(RunConfig, changed, "advice") if self.settings else scene.config
        networks = scene.networks
        if self.teacher is not None:
            networks = tuple((r, shape if r == "generator" else MODELS[self.teacher]) for r, shape in networks)
        return evolve(scene, config=config, networks=networks, world_size=self.world_size or scene.world_size)


@frozen
class Remedy:
    """Changes that make a run fit, and the bytes that it then holds at the most."""

    changes: tuple[Change, ...]
    peak: int


def peak(scene: Scene) -> int:
    """Bytes that one process holds at the most."""
    return moments(scene)[0].total


def _set(weight: float, price: str, **settings: Any) -> Change:
    keyed = {key.replace("__", "."): value for key, value in settings.items()}
    words = " ".join(f"{key}={_typed(value)}" for key, value in keyed.items())
    return Change(words, price, weight, axis=min(keyed), settings=tuple(keyed.items()))


def _typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def exact_changes(scene: Scene) -> list[Change]:
    """Changes that leave the result as it is, to rounding."""
    config, found = scene.config, []
    parallelism, sharded = config.parallelism, config.parallelism.kind != "ddp"
    if config.method == "dmd" and config.dmd.rollouts_ahead:
        found.append(_set(1, "same result, more calls of the generator", dmd__rollouts_ahead=False))
    if not parallelism.reshard_after_forward:
        found.append(_set(1, "same result, more gathering", parallelism__reshard_after_forward=True))
    for number, size in enumerate(_halves(scene.microbatch)):
        price = "same result up to the draws of noise, smaller kernels"
        found.append(_set(1 + number / 10, price, parallelism__device_microbatch_size=size))
    if parallelism.shard_degree is not None and parallelism.shard_degree < scene.world_size:
        found.append(_set(2, "same result, gathering between nodes", parallelism__shard_degree=None))
    if not sharded and scene.world_size > 1:
        found.append(_set(2, "same result, layers are gathered as they are needed", parallelism__kind="fsdp2"))
    if not parallelism.activation_checkpointing:
        price = "same result, a third more compute where gradients flow"
        found.append(_set(3, price, parallelism__activation_checkpointing=True))
    if config.lora.rank is not None and not config.lora.share_teacher and config.critic is None:
        price = "same result, the critic's base is the teacher"
        found.append(evolve(_set(0.5, price, lora__share_teacher=True), axis="teacher"))
    shares = config.lora.share_teacher
    if config.method == "dmd" and not parallelism.teacher_cpu_offload and not shares and scene.world_size > 1:
        kind = {} if sharded else {"parallelism__kind": "fsdp2"}
        price = "same result, the teacher's layers come from host memory"
        found.append(evolve(_set(6, price, parallelism__teacher_cpu_offload=True, **kind), axis="teacher"))
    return found


def _halves(number: int) -> Iterator[int]:
    while number > 1:
        number = (number + 1) // 2
        yield number


def other_changes(scene: Scene) -> list[Change]:
    """Changes that need more machines, or make it another experiment."""
    config, found = scene.config, []
    count = scene.world_size * 2
    while count <= scene.batch_size and scene.batch_size % count == 0:
        found.append(Change(f"--gpus {count}", "same result, more GPUs", 10, "gpus", world_size=count))
        count *= 2
    rollout = config.rollout
    if config.method == "dmd" and rollout.attention == "causal":
        least = SINK + 2 * rollout.frames_per_block
        for window in _halves(config.frames if rollout.window == -1 else rollout.window):
            if least <= window < config.frames:
                price = "another method: the generator sees less of its past"
                found.append(_set(20, price, rollout__window=window, rollout__sink=SINK))
    if config.method == "dmd":
        own = dict(scene.networks)["teacher"]
        for name, shape in MODELS.items():
            same = (shape.in_channels, shape.text_dim, shape.image_dim) == (
                own.in_channels,
                own.text_dim,
                own.image_dim,
            )
            if same and shape.num_layers * shape.dim < own.num_layers * own.dim:
                price = "another method: a smaller teacher and critic"
                words = f"teacher=FOLDER (of a {name}; here --teacher-model {name})"
                found.append(Change(words, price, 30, "score", teacher=name))
    return found


def combinations(changes: Sequence[Change]) -> Iterator[tuple[Change, ...]]:
    """Sets of changes that do not exclude each other, the cheapest first."""
    sets = [
        chosen
        for count in range(1, len({change.axis for change in changes}) + 1)
        for chosen in itertools.combinations(changes, count)
        if len({change.axis for change in chosen}) == count
    ]
    yield from sorted(sets, key=lambda chosen: (sum(change.weight for change in chosen), len(chosen)))


def changed(scene: Scene, changes: Iterable[Change]) -> Scene:
    """The scene with all of these changes."""
    for change in changes:
        scene = change.apply(scene)
    return scene


def _fits(scene: Scene, limit: int) -> int | None:
    """The peak if it is within the limit; what is held all the time is looked at first, since that takes no time."""
    if sum(held_throughout(scene).values()) + gathered(scene) > limit:
        return None
    found = peak(scene)
    return found if found <= limit else None


def remedy(scene: Scene, limit: int) -> Remedy | None:
    """The cheapest changes that make the run fit into `limit` bytes; None if nothing known here does.

    First those that leave the result as it is, alone and together. If all of them together are not enough, what needs
    more GPUs or changes the result comes first, with as few of them as it then takes.
    """
    exact = exact_changes(scene)
    most = _most(exact)
    if _fits(changed(scene, most), limit) is not None:
        for chosen in combinations(exact):
            found = _fits(changed(scene, chosen), limit)
            if found is not None:
                return Remedy(chosen, found)
    others = other_changes(scene)
    if _fits(changed(scene, [*_most(others), *most]), limit) is None:
        return None
    for more in combinations(others):
        larger = changed(scene, more)
        found = _fits(larger, limit)
        if found is not None:
            return Remedy(more, found)
        if _fits(changed(larger, most), limit) is None:
            continue
        for chosen in combinations(exact):
            found = _fits(changed(larger, chosen), limit)
            if found is not None:
                return Remedy((*more, *chosen), found)
    return None


def _most(changes: Iterable[Change]) -> list[Change]:
    """Of each axis the change that goes furthest."""
    last: Mapping[str, Change] = {change.axis: change for change in changes}
    return list(last.values())
