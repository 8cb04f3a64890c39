"""What a block costs late in a long video: CPU seconds and cache, with window and sink against all frames.

A video that is `length` latent frames long is stood in for by its cache, filled with random keys and values in blocks,
as a rollout commits them; its next block is then made and committed by the network, a few times, in turns with the
other settings. Last, one whole video is made with a window, to see that what was stood in for is what happens.

    python benchmarks/long_rollout.py [--repeats 5] [--out benchmarks/results/long_rollout.md]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attrs import asdict, evolve, frozen

from harness.config.schema import RolloutConfig
from harness.io import atomic_write_text
from harness.machine import processor_name
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.presets import WanGeometry, geometry
from harness.rollout.stream import Stream

BLOCK, TEXT = 3, 24
MIDDLE = WanGeometry(num_attention_heads=6, attention_head_dim=64, num_layers=6, ffn_dim=1024, text_dim=64, freq_dim=64)


@frozen
class Size:
    """A network, the latent pixels of a frame both ways, and the lengths to look at."""

    name: str
    network: WanGeometry
    pixels: int
    lengths: tuple[int, ...]


SIZES = (
    Size("tiny: 4 layers of 96, 9 tokens a frame", geometry("tiny"), 6, (9, 36, 144, 501, 2001)),
    Size("middle: 6 layers of 384, 64 tokens a frame", MIDDLE, 16, (9, 36, 144, 501)),
)
WINDOW = {"window": 9, "sink": 3, "frames_per_block": BLOCK, "denoising_steps": (1000,)}
SETTINGS = {
    "window 9, sink 3": (RolloutConfig(**WINDOW), 9),
    "the same, relative": (RolloutConfig(**WINDOW, rope="relative"), 9),
    "the same, no buffer": (RolloutConfig(**WINDOW), None),
    "all frames": (RolloutConfig(frames_per_block=BLOCK, denoising_steps=(1000,)), 0),
}


def make_stream(size: Size, setting: str, length: int) -> Stream:
    """A stream of one clip whose first `length` frames have been made."""
    config, buffer = SETTINGS[setting]
    condition = Condition(text=torch.randn(1, TEXT, size.network.text_dim))
    stream = Stream(condition, config, length + 2 * BLOCK if buffer == 0 else buffer)
    shape = (1, BLOCK * size.network.tokens_per_frame(size.pixels, size.pixels), size.network.num_attention_heads)
    for start in range(0, length, BLOCK):
        pairs = [
            tuple(torch.randn(*shape, size.network.attention_head_dim) for _ in range(2))
            for _ in range(size.network.num_layers)
        ]
        stream.cache.commit(start, BLOCK, pairs)  # type: ignore[arg-type]
    stream.frames = length
    return stream


def next_block(model: CausalWan, stream: Stream, noise: torch.Tensor) -> float:
    """CPU seconds of a block and its commit."""
    rng = torch.Generator()
    start = time.process_time()
    stream.block(model, noise, rng)
    stream.commit(model, rng)
    return time.process_time() - start


def noise_of(size: Size) -> torch.Tensor:
    return torch.randn(1, size.network.in_channels, BLOCK, size.pixels, size.pixels)


@torch.no_grad()
def measure(size: Size, model: CausalWan, length: int, repeats: int) -> dict[str, tuple[float, float]]:
    """For every setting: CPU seconds (median) of the block that ends at `length`, and MiB of the cache after it.

    Settings take turns, so that a busy machine slows all of them alike.
    """
    seconds: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    mib: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for setting in SETTINGS:
            stream = make_stream(size, setting, length - 2 * BLOCK)
            next_block(model, stream, noise_of(size))  # what filled the cache has emptied the processor's
            spent = next_block(model, stream, noise_of(size))
            if repeat:  # the first one warms up
                seconds[setting].append(spent)
            mib[setting] = stream.cache.num_bytes / 2**20
    return {setting: (statistics.median(seconds[setting]), mib[setting]) for setting in SETTINGS}


@torch.no_grad()
def whole_video(size: Size, model: CausalWan, length: int) -> list[str]:
    """Make a video with a window from its first frame on: what a block costs in each fifth of it."""
    config, buffer = SETTINGS["window 9, sink 3"]
    stream = Stream(Condition(text=torch.randn(1, TEXT, size.network.text_dim)), config, buffer)
    spent = [next_block(model, stream, noise_of(size)) for _ in range(length // BLOCK)]
    fifth = len(spent) // 5
    medians = [statistics.median(spent[i * fifth : (i + 1) * fifth]) for i in range(5)]
    return [f"{1000 * median:.1f}" for median in medians]


def make_model(size: Size) -> CausalWan:
    """A random network whose frames have as many channels in as out."""
    torch.manual_seed(0)
    return CausalWan(**asdict(evolve(size.network, out_channels=size.network.in_channels))).eval()


def table(size: Size, model: CausalWan, repeats: int) -> list[str]:
    """The lines of one network."""
    lines = [f"## {size.name}", "", "CPU milliseconds per block, its commit included, and MiB of keys and values.", ""]
    columns = [f"{setting}{unit}" for setting in SETTINGS for unit in (", ms", ", MiB")]
    lines += [f"| latent frames | {' | '.join(columns)} |", "| ---: |" + " ---: |" * len(columns)]
    for length in size.lengths:
        measured = measure(size, model, length, repeats)
        cells = [cell for seconds, mib in measured.values() for cell in (f"{1000 * seconds:.1f}", f"{mib:.2f}")]
        lines.append(f"| {length} | {' | '.join(cells)} |")
    return [*lines, ""]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["# What a block costs late in a long video", ""]
    lines += [
        f"{processor_name()}, one thread, torch {torch.__version__}. Blocks of {BLOCK} latent frames, one denoising",
        f"step and a commit each, one clip, float32; medians of {arguments.repeats}. The cache lies in buffers,",
        "but for the third setting, which is how training keeps it.",
        "",
    ]
    for size in SIZES:
        model = make_model(size)
        lines += table(size, model, arguments.repeats)
        if size is SIZES[0]:
            fifths = whole_video(size, model, size.lengths[-1])
            lines += [
                f"A whole video of {size.lengths[-1]} frames with window and sink, made from its first frame on: "
                f"{', '.join(fifths)} ms",
                "per block (medians) in its first to last fifth.",
                "",
            ]
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        atomic_write_text(arguments.out, text)


if __name__ == "__main__":
    main()
