"""What a frame of a long video costs with a window over the past: the same at any length, in constant memory.

Samples clips of two lengths, one four times the other, with a window and a sink, in turns; then, for contrast, without
a window. Memory is measured in a process of its own for each: the peak that sampling adds, without the noise that it
is given and the clip that it returns, which grow with the length in any case.

    python benchmarks/window_cost.py [--rounds 3] [--out benchmarks/results/window_cost.md]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attrs import asdict

from harness.config.schema import RolloutConfig
from harness.io import atomic_write_text
from harness.machine import processor_name
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.presets import WanGeometry
from harness.rollout.few_step import rollout

WAN = WanGeometry(num_attention_heads=4, attention_head_dim=64, num_layers=4, ffn_dim=512, text_dim=64, freq_dim=64)
SIZE, SHORT, LONG = 16, 60, 240  # latent pixels both ways (64 tokens a frame), latent frames
# glibc would keep small freed blocks: its heap grows with holes, which is not what sampling holds.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
SETTINGS = {"window 12, sink 3": RolloutConfig(window=12, sink=3), "no window": RolloutConfig()}


def sample(setting: str, frames: int) -> tuple[float, float]:
    """CPU seconds of sampling a clip, and the MiB of its noise and its frames."""
    torch.manual_seed(0)
    model = CausalWan(**asdict(WAN)).eval()
    noise = torch.randn(1, WAN.out_channels, frames, SIZE, SIZE)
    condition = Condition(text=torch.randn(1, 16, WAN.text_dim))
    rollout(model, noise[:, :, :6], condition, SETTINGS[setting], torch.Generator())  # warm
    start = time.process_time()
    clip = rollout(model, noise, condition, SETTINGS[setting], torch.Generator())
    return time.process_time() - start, (noise.nbytes + clip.nbytes) / 2**20


def resident_mib(name: str) -> float:
    """Resident memory of this process now (`VmRSS`) or at its peak (`VmHWM`), from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def measure_peak(setting: str, frames: int) -> float:
    """MiB that sampling adds, besides noise and clip, to what a short clip has left behind."""
    sample(setting, 12)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_mib("VmRSS")
    _, outside = sample(setting, frames)
    return resident_mib("VmHWM") - before - outside


def peak_of(setting: str, frames: int) -> float:
    """`measure_peak` in a process of its own, whose allocator gives back at once what is freed."""
    command = [sys.executable, __file__, "--peak", setting, str(frames)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ALLOCATOR)
    return float(result.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(measure_peak(arguments.peak[0], int(arguments.peak[1])))
        return
    lines = ["# What a frame costs in a long video", ""]
    lines.append(
        f"{processor_name()}, one thread, torch {torch.__version__}. 4 layers of 256, 64 tokens a frame, blocks"
    )
    lines += [f"of 3 frames, 4 steps and a commit each; medians of {arguments.rounds} rounds.", ""]
    names = ("past", f"CPU s, {SHORT} frames", f"CPU s, {LONG} frames", "ratio", f"MiB, {SHORT}", f"MiB, {LONG}")
    lines += [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for setting in SETTINGS:
        rounds = [(sample(setting, SHORT)[0], sample(setting, LONG)[0]) for _ in range(arguments.rounds)]
        short, long = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        ratio = statistics.median(b / a for a, b in rounds)
        peaks = [peak_of(setting, frames) for frames in (SHORT, LONG)]
        lines.append(f"| {setting} | {short:.2f} | {long:.2f} | {ratio:.2f} | {peaks[0]:.1f} | {peaks[1]:.1f} |")
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.out:
        atomic_write_text(arguments.out, text)


if __name__ == "__main__":
    main()
