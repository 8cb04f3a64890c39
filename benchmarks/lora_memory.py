"""What adapters and a shared teacher save: memory while training, and bytes of a resume state; predicted and measured.

The same short run of DMD, three times: all weights trained; adapters on generator and critic; adapters, with the
critic's frozen base as the teacher. Measured as `benchmarks/plan_memory.py` does, until the last backward pass ends;
the resume state is the file that the run writes. Networks of every size have these shares: weights, moments, averages
and gradients grow alike.

    python benchmarks/lora_memory.py [--write]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from attrs import evolve, frozen
from plan_memory import Case, LastBackward, measured_peaks, scene_of, train

from harness.config.load import load_params, resolve_preset
from harness.io import atomic_write_text
from harness.machine import processor_name
from harness.planning.memory import count_trained, held_throughout, moments
from harness.planning.rehearsal import make_batch
from harness.planning.scene import Scene, build_scene

RESULT = Path(__file__).parent / "results" / "lora_memory.md"
RANK = 16
ADAPTERS = f"lora.rank={RANK} lora.alpha={RANK}"
CHECKPOINTING = "parallelism.activation_checkpointing=true"
ARMS = {
    "all weights": "",
    "adapters": ADAPTERS,
    "adapters, shared teacher": f"{ADAPTERS} lora.share_teacher=true",
}
LARGE = "wan2_1-t2v-1_3b"


@frozen(kw_only=True)
class Row:
    """One arm's numbers, in bytes but for `trained`."""

    name: str
    trained: int
    predicted: int
    measured: int
    state: int


def scene(settings: str) -> Scene:
    """The run with these settings: one clip, so that weights outweigh activations, as they do in large networks."""
    return scene_of(Case(method="dmd", settings=f"{CHECKPOINTING} {settings}".strip(), batch=1, frames=3))


def state_bytes(run: Scene) -> int:
    """Size of the resume state that the run leaves."""
    run = evolve(run, config=evolve(run.config, save_every_batches=1))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(run, [make_batch(run, run.share, device="cpu") for _ in range(12)], Path(folder), LastBackward())
        return sorted(Path(folder).glob("states/batch*/rank0.pt"))[-1].stat().st_size


def measure(name: str, settings: str) -> Row:
    """Predict, then measure."""
    run = scene(settings)
    predicted = max(moment.total for moment in moments(run) if moment.when.startswith("an update"))
    return Row(
        name=name,
        trained=sum(count_trained(run, role).all for role in run.trained),
        predicted=predicted,
        measured=measured_peaks(run)[0],
        state=state_bytes(run),
    )


def large(settings: str) -> int:
    """Bytes that Wan 1.3B holds from the first update to the last on one of 8 GPUs with FSDP2."""
    lora = settings.replace(f"={RANK}", "=256")
    config = resolve_preset(LARGE, "dmd", ["parallelism.kind=fsdp2", *lora.split()])
    run = build_scene(config, load_params(preset=LARGE).preset, world_size=8)
    return sum(held_throughout(run).values())


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    base = rows[0]
    worst = max(abs(row.predicted / row.measured - 1) for row in rows)
    lines = [
        "# Memory of adapters, and of a teacher that shares the critic's base",
        "",
        f"{processor_name()}, float32. DMD with networks of 6 layers, width 192, one clip of 3 latent frames, with",
        f"activation checkpointing; adapters of rank {RANK} on every linear layer of the blocks",
        "(`benchmarks/lora_memory.py`). Peak of tensor memory until the last backward pass ends, as `plan` predicts it",
        f"and as the allocator's events give it; the largest difference is {worst:.1%}.",
        "",
        "| trained | trained parameters | predicted MiB | measured MiB | of all weights | resume state MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.trained:,} | {row.predicted / 2**20:.1f} | {row.measured / 2**20:.1f} | "
            f"{row.measured / base.measured:.0%} | {row.state / 2**20:.1f} |"
        )
    own, shared = rows[1], rows[2]
    lines += [
        "",
        f"Sharing the teacher saves {(own.measured - shared.measured) / 2**20:.1f} MiB, measured: its weights.",
        "",
        f"Predicted for `{LARGE}` on one of 8 GPUs with FSDP2, rank 256 (not measured):",
        "",
        "| trained | weights, moments and averages, GiB |",
        "| --- | --- |",
    ]
    for name, settings in ARMS.items():
        lines.append(f"| {name} | {large(settings) / 2**30:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and, if asked to, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(RESULT.parents[2])}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = table([measure(name, settings) for name, settings in ARMS.items()])
    print(text, end="")
    if arguments.write:
        atomic_write_text(RESULT, text)


if __name__ == "__main__":
    main()
