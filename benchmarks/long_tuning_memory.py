"""What an update of streaming long tuning holds, by the length of the sequence that it goes on with.

Generator updates of DMD with Wan 2.1 1.3B at 480×832, in bf16 with activation checkpointing: with a window and a sink
as LongLive has them, with attention to all frames, and, for contrast, on one clip of the whole length. The method's own
code runs on the meta device (see `harness.planning.rehearsal`), where tensors have shapes and no memory: counted is the
largest sum of the tensors that live besides weights, what is carried from update to update among them. All updates are
under one prompt; a stand-in for the VAE gives the image at a clip's start.

    python benchmarks/long_tuning_memory.py [--lengths 21 60 120 240] [--layers 30] [--write]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attrs import asdict, evolve, frozen

from harness.config.schema import AdamWConfig, DMDConfig, LongTuningConfig, RolloutConfig
from harness.io import atomic_write_text
from harness.methods.dmd import DMD
from harness.methods.draws import Draws
from harness.methods.long_sequence import LongSequence
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.presets import geometry
from harness.planning.meter import StorageMeter
from harness.planning.stand_ins import AsOnDevice

RESULT = Path(__file__).parent / "results" / "long_tuning_memory.md"
MODEL, CLIP, SHORTEST = "wan2.1-t2v-1.3b", 21, 18  # latent frames of a clip, of the shortest chunk
HEIGHT, WIDTH, TEXT = 60, 104, 512  # latent pixels, text tokens
LENGTHS = (21, 60, 120, 240)


@frozen
class Way:
    """How long video is trained: as a sequence of chunks, or (`stream` false) as one clip of the whole length."""

    name: str
    rollout: RolloutConfig
    stream: bool = True


# The last of two steps stands for all: more of them without gradient hold no more.
ROLLOUT = RolloutConfig(denoising_steps=(1000, 500), exit_step="last")
WAYS = (
    Way("window 12, sink 3", evolve(ROLLOUT, window=12, sink=3)),
    Way("all frames", ROLLOUT),
    Way("one clip", ROLLOUT, stream=False),
)


@frozen
class Update:
    """One update: the frames of its sequence (or clip) after it, bytes at the peak, bytes carried on from it."""

    frames: int
    peak: int
    carried: int


def build(way: Way, layers: int) -> DMD:
    """The method over three networks."""
    shape = asdict(evolve(geometry(MODEL), num_layers=layers))
    with torch.device("meta"):
        generator, critic, teacher = (CausalWan(**shape) for _ in range(3))
    for network in (generator, critic):
        network.enable_gradient_checkpointing()
    adamw = AdamWConfig(lr=1e-5)
    config = DMDConfig(generator_updates=1, generator_optimizer=adamw, critic_optimizer=adamw)
    return DMD(generator, critic, teacher, config, way.rollout).train()


def run(way: Way, frames: int, layers: int) -> list[Update]:
    """All updates of a sequence of up to `frames` frames; the one update of a clip of so many."""
    method = build(way, layers)
    shape = geometry(MODEL)
    text = torch.ones(1, TEXT, shape.text_dim, device="meta")
    like = torch.ones(1, shape.out_channels, CLIP if way.stream else frames, HEIGHT, WIDTH, device="meta")
    if way.stream:
        tuning = LongTuningConfig(enabled=True, max_frames=frames, min_new_frames=SHORTEST)
        method.sequence = LongSequence(tuning, way.rollout, CLIP, lambda latents: latents[:, :, -1:].clone())
    meter = StorageMeter()
    meter.leave_out([*method.parameters(), text, like])
    updates: list[Update] = []
    with meter, AsOnDevice(bf16=True, note_cast=lambda cast: None):
        while True:
            made = frames if method.sequence is None else method.sequence.made
            if updates and (method.sequence is None or made + SHORTEST > frames):
                return updates
            number = len(updates)
            meter.window, method.draws = number, Draws.at(0, number)
            torch.autograd.backward(method({"latent": like, "condition": Condition(text=text)})["loss"])
            method.zero_grad()
            if method.sequence is not None:
                method.sequence.detach()
                made = method.sequence.made
            updates.append(Update(made, meter.peaks[number].total, sum(meter.live.values())))


def at(updates: Sequence[Update], frames: int) -> tuple[float, float]:
    """(the highest peak, what is carried on from the last) of the updates up to so many frames, GiB."""
    chosen = [update for update in updates if update.frames <= frames]
    return max(update.peak for update in chosen) / 2**30, chosen[-1].carried / 2**30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--layers", type=int, default=geometry(MODEL).num_layers)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What long tuning holds, by the length of the sequence",
        "",
        f"Generator updates of DMD, {MODEL} with {arguments.layers} layers at 480×832, batch 1 on one device, bf16",
        f"with activation checkpointing; clips of {CLIP} latent frames, {SHORTEST} or {CLIP} new ones an update.",
        "Lengths are in latent frames. Counted on the meta device: all tensors besides weights and moments.",
        "",
        "| past | length | peak, GiB | of it carried on, GiB |",
        "| --- | --- | --- | --- |",
    ]
    for way in WAYS:
        whole = run(way, max(arguments.lengths), arguments.layers) if way.stream else []
        for length in arguments.lengths:
            peak, carried = at(whole or run(way, length, arguments.layers), length)
            lines.append(f"| {way.name} | {length} | {peak:.2f} | {f'{carried:.2f}' if way.stream else '—'} |")
            print(lines[-1], flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.write:
        atomic_write_text(RESULT, text)


if __name__ == "__main__":
    main()
