"""`python -m harness plan`: what a run will hold and compute on each device, before it is launched."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence

from harness.config.explain import resolve
from harness.config.load import load_params
from harness.errors import HarnessError
from harness.planning.advice import remedy
from harness.planning.compute import DEVICES, Budget, budget
from harness.planning.memory import Moment, count_trained, held_throughout, moments
from harness.planning.scene import Scene, build_scene
from harness.training.parallelism import check_sharding

HEADROOM = 0.08  # of the memory: the context of CUDA, NCCL's buffers, fragmentation; a rule of thumb
_UNITS = {"B": 1, "M": 2**20, "MB": 2**20, "MIB": 2**20, "G": 2**30, "GB": 2**30, "GIB": 2**30}

Line = tuple[str, str]


def parse_memory(text: str) -> int:
    """`80GB` → bytes. GB is 2³⁰, as memory is sold. Raises HarnessError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise HarnessError(f"--memory {text}: expected a size such as 80GB or 24GiB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def parse_device(text: str) -> float:
    """A device's name, or its peak in TFLOP/s. Raises HarnessError for anything else."""
    if text.lower() in DEVICES:
        return DEVICES[text.lower()]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise HarnessError(f"--device {text}: expected one of {', '.join(DEVICES)}, or a peak in TFLOP/s")
    return value


def size(number: int) -> str:
    """Bytes for people: `12.3 GiB`, `4.5 MiB`."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds for people: `3.2 hours`."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def teraflops(flops: float) -> str:
    """Floating point operations for people."""
    for unit, length in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= length:
            return f"{flops / length:.1f} {unit}"
    return f"{flops / 1e9:.2f} GFLOP"


def _run(scene: Scene) -> Iterable[Line]:
    config, parallelism = scene.config, scene.config.parallelism
    networks = ", ".join(f"{role} {shape.num_layers} × {shape.dim}" for role, shape in scene.networks)
    tokens = config.frames * scene.networks[0][1].tokens_per_frame(scene.height, scene.width)
    yield "run", f"{config.method} of {config.model}, {config.precision}"
    yield "networks", f"{networks} (layers × width)"
    yield "clip", f"{config.frames} latent frames of {scene.height}×{scene.width}: {tokens:,} tokens"
    lora = config.lora
    if lora.rank is not None:
        count = sum(count_trained(scene, role).all for role in scene.trained)
        shared = "; the teacher is the critic's base" if lora.share_teacher else ""
        yield "adapters", f"rank {lora.rank} on {', '.join(lora.targets)}: {count:,} trained parameters{shared}"
    checkpointing = "on" if parallelism.activation_checkpointing else "off"
    sharded = f" over {scene.shards}" if scene.shards > 1 else ""
    yield "devices", f"{scene.world_size}, {parallelism.kind}{sharded}, activation checkpointing {checkpointing}"
    yield (
        "batch",
        f"{scene.batch_size} clips: {scene.share} a device, in {scene.microbatches} microbatches of {scene.microbatch}",
    )


def _memory(scene: Scene, found: Sequence[Moment]) -> Iterable[Line]:
    worst, always = found[0], held_throughout(scene)
    for name, number in worst.parts.items():
        if number:
            yield name, f"{size(number):>10}{'' if name in always else '   for a time'}"
    yield "in all", f"{size(worst.total):>10}   at the worst moment: {worst.when}"
    for other in found[1:]:
        yield "", f"{size(other.total):>10}   at another: {other.when}"


def _compute(cost: Budget, peak: float, utilization: float) -> Iterable[Line]:
    count = ", ".join(f"{number:,} of the {role}" for role, number in cost.updates.items())
    yield "updates", f"{count}: {cost.batches:,} batches"
    for phase, works in cost.per_update.items():
        for (role, kind), work in sorted(works.items()):
            flops = work.flops * cost.world_size
            yield (
                f"per {phase} update",
                f"{role}, {kind}: {work.calls:.4g} forwards a device, {teraflops(flops)} in all",
            )
    whole = cost.whole
    again = f", and {teraflops(whole.repeated)} to repeat checkpointed layers" if whole.repeated else ""
    yield "in all", f"{whole.calls:,.0f} forwards a device, {teraflops(whole.flops)}{again}"
    yield (
        "time",
        f"about {duration(cost.seconds(peak, utilization))} at {utilization:.0%} of {peak:g} TFLOP/s a device; "
        "loading, communication, the optimizer and the monitor come on top",
    )


def _verdict(scene: Scene, found: Sequence[Moment], memory: int) -> Iterable[Line]:
    limit, worst = int(memory * (1 - HEADROOM)), found[0].total
    share = f"{worst / memory:.0%} of {size(memory)}"
    if worst <= limit:
        yield "fits", f"{share}; {HEADROOM:.0%} are left to CUDA, NCCL and fragmentation"
        return
    yield "does not fit", f"{share}, of which {HEADROOM:.0%} are needed for CUDA, NCCL and fragmentation"
    largest = max(found[0].parts, key=lambda name: found[0].parts[name])
    yield "largest part", f"{largest}: {size(found[0].parts[largest])}"
    cure = remedy(scene, limit)
    if cure is None:
        yield "remedy", "none of the changes known here is enough: a smaller model, fewer frames, or larger devices"
        return
    for number, change in enumerate(cure.changes):
        yield ("cheapest change" if not number else "and"), f"{change.words}   ({change.price})"
    yield "then", f"{size(cure.peak)}, {cure.peak / memory:.0%}"


def page(scene: Scene, *, memory: int | None, peak_teraflops: float, utilization: float) -> tuple[str, bool]:
    """A page of text, and whether the run fits (True if no memory was named)."""
    found, cost = moments(scene), budget(scene)
    sections = {
        "Run": list(_run(scene)),
        "Memory of a device": list(_memory(scene, found)),
        "Compute": list(_compute(cost, peak_teraflops, utilization)),
    }
    if memory is not None:
        sections["Verdict"] = list(_verdict(scene, found, memory))
    width = max(len(name) for lines in sections.values() for name, _ in lines)
    text: list[str] = []
    for title, lines in sections.items():
        text += [title, *(f"  {name:<{width}}  {words}".rstrip() for name, words in lines), ""]
    return "\n".join(text), memory is None or found[0].total <= int(memory * (1 - HEADROOM))


def plan_scene(
    what: str, overrides: Sequence[str], method: str | None, *, world_size: int, teacher: str | None
) -> Scene:
    """The scene behind the words of the command line."""
    config, _ = resolve(what, method, overrides)
    preset = load_params(preset=config.preset).preset
    check_sharding(config.parallelism, world_size)
    return build_scene(config, preset, world_size=world_size, teacher=teacher)


def main(argv: Sequence[str] | None = None) -> int:
    """`plan`: memory, compute and time of a run on so many devices; exit status 1 if it does not fit."""
    parser = argparse.ArgumentParser(prog="python -m harness plan", description=main.__doc__)
    parser.add_argument("what", help="a target, a .yaml file of a run, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to a file or preset")
    parser.add_argument("--method", help="of a preset: sft, causal_sft or dmd (default: dmd)")
    parser.add_argument("--preset", help="for a .yaml file: take the defaults of this preset")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="devices, one process each (default: 1)")
    parser.add_argument("--memory", metavar="SIZE", help="of a device, such as 80GB; says whether the run fits")
    parser.add_argument("--device", default="h100", help=f"{', '.join(DEVICES)}, or a bf16 peak in TFLOP/s")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached (default: 0.4)")
    parser.add_argument(
        "--teacher-model",
        metavar="MODEL",
        help="of the teacher, and of a critic without a folder of its own, while the folder is not here",
    )
    arguments = parser.parse_intermixed_args(argv)
    if arguments.gpus < 1 or not 0 < arguments.mfu <= 1:
        raise HarnessError("--gpus: at least 1; --mfu: above 0 and at most 1")
    memory = None if arguments.memory is None else parse_memory(arguments.memory)
    peak = parse_device(arguments.device)
    overrides = list(arguments.overrides) + ([f"preset={arguments.preset}"] if arguments.preset else [])
    scene = plan_scene(
        arguments.what, overrides, arguments.method, world_size=arguments.gpus, teacher=arguments.teacher_model
    )
    text, fits = page(scene, memory=memory, peak_teraflops=peak, utilization=arguments.mfu)
    print(text, end="")
    return 0 if fits else 1
