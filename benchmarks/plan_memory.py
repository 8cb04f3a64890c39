"""The peak memory that `plan` predicts against the peak that training reaches.

A case is trained for a few batches by the project's own Trainer, with its algorithms, and its average is put in place
of the weights, as at the end of every run. On a CPU every allocation and release of tensor memory is recorded by
`torch.profiler` (what the allocator was asked for: kernels' temporary buffers count, what the process holds besides
tensors does not); the peak is the largest running sum. On a GPU it is `torch.cuda.max_memory_allocated`. The batches
lie in host memory before; on a CPU, where the Trainer takes them as they are, that one copy is added. There are two
peaks: until the last backward pass ends, and of the whole run, where saving a state can need more.

    python benchmarks/plan_memory.py [--case NAME …] [--write]
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attrs import evolve, frozen
from composer.core import Callback, DataSpec, State
from composer.loggers import Logger

from harness.config.load import resolve_preset
from harness.data.loader import size_of, split_batch
from harness.io import atomic_write_text
from harness.machine import processor_name
from harness.models.presets import WanGeometry
from harness.planning.memory import moments
from harness.planning.rehearsal import build_method, build_networks, make_batch
from harness.planning.scene import Scene
from harness.training.assembly import build_training

RESULT = Path(__file__).parent / "results" / "plan_memory.md"
MID = WanGeometry(
    num_attention_heads=4, attention_head_dim=48, num_layers=6, ffn_dim=768, text_dim=64, freq_dim=64
)  # width 192
SMALL_CRITIC = evolve(MID, num_layers=3)


@frozen(kw_only=True)
class Case:
    """What is trained: settings as they are typed, and the batch's shape. Latents are `size` × `size`."""

    method: str
    settings: str = ""
    batch: int = 2
    frames: int = 9
    size: int = 16
    text: int = 32
    score: WanGeometry = MID  # of critic and teacher


CASES = {
    "sft": Case(method="sft"),
    "sft, checkpointing": Case(method="sft", settings="parallelism.activation_checkpointing=true"),
    "sft, batch 1, 3 frames": Case(method="sft", batch=1, frames=3, size=8),
    "sft, 4 microbatches": Case(method="sft", settings="parallelism.device_microbatch_size=1", batch=4),
    "sft, average begins late": Case(method="sft", settings="sft.ema_start=2", batch=1, frames=1, size=8),
    "causal_sft, teacher forcing": Case(method="causal_sft"),
    "causal_sft, diffusion forcing, checkpointing": Case(
        method="causal_sft",
        settings="causal_sft.context=diffusion_forcing parallelism.activation_checkpointing=true",
    ),
    "dmd": Case(method="dmd"),
    "dmd, checkpointing": Case(method="dmd", settings="parallelism.activation_checkpointing=true"),
    "dmd, window 6, sink 1, checkpointing": Case(
        method="dmd",
        settings="rollout.window=6 rollout.sink=1 parallelism.activation_checkpointing=true",
        frames=15,
        batch=1,
    ),
    "dmd, gradient through the cache": Case(method="dmd", settings="rollout.kv_grad=straight_through", batch=1),
    "dmd, bidirectional, no guidance": Case(method="dmd", settings="rollout.attention=bidirectional dmd.cfg_scale=1"),
    "dmd, rollouts ahead, checkpointing": Case(
        method="dmd",
        settings="dmd.rollouts_ahead=true dmd.critic_updates_per_generator_update=4 "
        "parallelism.activation_checkpointing=true",
        batch=1,
    ),
    "dmd, critic and teacher of 3 layers": Case(method="dmd", score=SMALL_CRITIC, batch=1),
}
FAST = ("causal_sft, teacher forcing", "dmd, checkpointing")


def scene_of(case: Case) -> Scene:
    """The scene of a case: few batches, every exit step the last."""
    settings = [
        "init.kind=random" if case.method == "sft" else "init.kind=teacher",
        "precision=fp32",
        "rollout.exit_step=last",
        "rollout.denoising_steps=[1000, 500]",
        "rollout.frames_per_block=3" if case.frames % 3 == 0 else "rollout.frames_per_block=1",
        f"{case.method}.batch_size={case.batch}",
        "dmd.critic_updates_per_generator_update=1",
        "dmd.critic_warmup_updates=0",
        "dmd.generator_updates=2",
        "sft.updates=3",
        "causal_sft.updates=3",
        f"{case.method}.monitor_every_updates=null",
        "save_every_batches=1000000",
        *case.settings.split(),
    ]
    config = evolve(resolve_preset("tiny", case.method, settings), frames=case.frames)
    networks = {"generator": MID} if case.method != "dmd" else {"generator": MID, "critic": case.score}
    networks |= {} if case.method != "dmd" else {"teacher": case.score}
    return Scene(
        config=config,
        networks=tuple(networks.items()),
        height=case.size,
        width=case.size,
        text_length=case.text,
    )


class LastBackward(Callback):
    """When the last backward pass had ended, and on a GPU the peak until then."""

    def __init__(self) -> None:
        self.time, self.peak = 0, 0

    def after_train_batch(self, state: State, logger: Logger) -> None:
        """Note both; the last one stays."""
        self.time = time.time_ns()
        self.peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def train(scene: Scene, batches: list[dict[str, Any]], folder: Path, mark: LastBackward) -> None:
    """The run that is measured, from nothing to its averaged weights."""
    torch.manual_seed(0)
    networks = build_networks(scene, device="cpu")
    training = build_training(
        scene.config,
        build_method(scene, networks),
        DataSpec(batches, split_batch=split_batch, get_num_samples_in_batch=size_of),
        folder,
        fingerprint="benchmark",
        save_best=lambda network: None,
        watchers=lambda order, history: [mark],
    )
    training.trainer.fit()
    with training.ema.applied():
        pass
    training.trainer.close()


def measured_peaks(scene: Scene) -> tuple[int, int]:
    """Bytes of tensors at the worst moment: of the updates, and of the whole run."""
    batches = [make_batch(scene, scene.share, device="cpu") for _ in range(12)]
    mark = LastBackward()
    gc.collect()  # a run before this one: what is given back in this one would count
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            train(scene, batches, Path(folder), mark)
            return mark.peak, torch.cuda.max_memory_allocated()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            train(scene, batches, Path(folder), mark)
    held = bytes_of(batches[0])
    return running_peak(profile, mark.time) + held, running_peak(profile) + held


def running_peak(profile: Any, until: float = float("inf")) -> int:
    """The largest sum of the bytes taken and given back so far, in order of time (nanoseconds since 1970)."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.start_ns() > until:
            break
        total += event.nbytes()
        highest = max(highest, total)
    return highest


def bytes_of(batch: dict[str, Any]) -> int:
    """Bytes of a batch's tensors."""
    condition = batch["condition"]
    parts = (batch["latent"], condition.text, condition.image_tokens, condition.y, condition.unconditional_text)
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


@frozen
class Row:
    """One case's numbers in bytes, (predicted, measured), and seconds."""

    name: str
    updates: tuple[int, int]
    whole: tuple[int, int]
    seconds: float

    @property
    def ratios(self) -> tuple[float, float]:
        """Predicted over measured: updates, whole run."""
        return self.updates[0] / self.updates[1], self.whole[0] / self.whole[1]


def compare(name: str, case: Case) -> Row:
    """Predict, then measure."""
    scene = scene_of(case)
    predicted = moments(scene)
    during = ("an update", "the average") if scene.config.sft.ema_start else ("an update",)  # copied until it begins
    update = max(moment.total for moment in predicted if moment.when.startswith(during))
    started = time.perf_counter()
    measured = measured_peaks(scene)
    return Row(name, (update, measured[0]), (predicted[0].total, measured[1]), time.perf_counter() - started)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    how = "`torch.cuda.max_memory_allocated`" if torch.cuda.is_available() else "the profiler's allocator events"
    worst = max(abs(ratio - 1) for row in rows for ratio in row.ratios)
    lines = [
        "# Predicted and measured peak memory",
        "",
        f"{device}, float32. Networks of 6 layers, width {MID.dim}; the peak of tensor memory over short runs, by",
        f"{how} (`benchmarks/plan_memory.py`): until the last backward pass ends, and",
        f"over the whole run, where saving a state can need more. The largest difference is {worst:.1%}.",
        "",
        "| case | updates: predicted MiB | measured MiB | ratio | whole run: predicted MiB | measured MiB | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            f"{predicted / 2**20:.1f} | {measured / 2**20:.1f} | {predicted / measured:.3f}"
            for predicted, measured in (row.updates, row.whole)
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and, if asked to, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only these (default: all)")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(RESULT.parents[2])}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.case or CASES:
        rows.append(compare(name, CASES[name]))
        row = rows[-1]
        found = ", ".join(f"{ratio:.3f}" for ratio in row.ratios)
        print(f"{name}: predicted over measured {found} ({row.seconds:.0f} s)", flush=True)
    print("\n" + table(rows), end="")
    if arguments.write:
        atomic_write_text(RESULT, table(rows))


if __name__ == "__main__":
    main()
