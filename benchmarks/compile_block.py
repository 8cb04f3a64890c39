"""Whether `torch.compile` of the repeated block pays: warm-up, seconds per pass, and after how many passes it has paid.

Two copies of one network, one compiled by diffusers' `compile_repeated_blocks`, in turns: a pass without gradient (as
the teacher's), one with its backward pass (as the critic's), and a causal rollout, whose cache has another length in
every block. The passes run in the tiny preset's geometry and in a middle one.

    python benchmarks/compile_block.py [--rounds 5] [--out benchmarks/results/compile_block.md]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # warm-up as on a machine that has never compiled it

import torch
from attrs import asdict, frozen
from torch import Tensor

from harness.config.schema import RolloutConfig
from harness.io import atomic_write_text
from harness.machine import processor_name
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.presets import MODELS, WanGeometry
from harness.rollout.few_step import rollout

MIDDLE = WanGeometry(num_attention_heads=4, attention_head_dim=64, num_layers=8, ffn_dim=1024, text_dim=64, freq_dim=64)


@frozen(kw_only=True)
class Size:
    """A network, and the clips that it is given."""

    shape: WanGeometry
    batch: int
    frames: int
    side: int  # latent pixels


SIZES = {
    "tiny, 9 × 9 tokens, batch 8": Size(shape=MODELS["tiny"], batch=8, frames=9, side=6),
    "middle, 21 × 64 tokens, batch 1": Size(shape=MIDDLE, batch=1, frames=21, side=16),
}
ROLLOUT = RolloutConfig(denoising_steps=(1000, 500), shift=3.0)


def passes(model: CausalWan, size: Size) -> dict[str, Callable[[], object]]:
    """Name → one pass of the network."""
    torch.manual_seed(0)
    channels = size.shape.out_channels
    x = torch.randn(size.batch, channels, size.frames, size.side, size.side)
    extra = size.shape.in_channels - channels
    y = torch.randn(size.batch, extra, size.frames, size.side, size.side) if extra else None
    condition = Condition(text=torch.randn(size.batch, 16, size.shape.text_dim), y=y)
    t = torch.full((size.batch,), 500.0)

    def forward() -> Tensor:
        with torch.no_grad():
            return predict_velocity(model, x, t, condition)

    def both_ways() -> None:
        predict_velocity(model, x, t, condition).square().mean().backward()
        model.zero_grad(set_to_none=True)

    def causal() -> Tensor:
        return rollout(model, x, condition, ROLLOUT, torch.Generator().manual_seed(0))

    return {"pass without gradient": forward, "pass and its backward": both_ways, "causal rollout, 2 steps": causal}


def seconds(run: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(size: Size, rounds: int) -> list[str]:
    """The table's rows of one size."""
    torch.manual_seed(0)
    eager = CausalWan(**asdict(size.shape))
    rows = []
    for name, plain in passes(eager, size).items():
        torch.compiler.reset()  # what one kind of pass has compiled counts against the limit of the next
        compiled = copy.deepcopy(eager)
        compiled.compile_repeated_blocks()
        fast = passes(compiled, size)[name]
        plain()
        warm_up = seconds(fast) + seconds(fast)
        pairs = [(seconds(plain), seconds(fast)) for _ in range(rounds)]
        before, after = (statistics.median(values) for values in zip(*pairs, strict=True))
        gain = before - after
        paid = f"{warm_up / gain:,.0f} passes" if gain > 0 else "never"
        rows.append(
            f"| {name} | {before * 1e3:.1f} | {after * 1e3:.1f} | {before / after:.2f}× | {warm_up:.1f} | {paid} |"
        )
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compile_block.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# `torch.compile` of the repeated block",
        "",
        f"{processor_name()}, one thread, float32, torch {torch.__version__}, inductor. Median of {arguments.rounds}",
        "rounds, eager and compiled in turns. Warm-up: the first two compiled calls.",
    ]
    for name, size in SIZES.items():
        lines += ["", f"## {name}", "| | eager, ms | compiled, ms | gain | warm-up, s | has paid after |"]
        lines += ["| --- | --- | --- | --- | --- | --- |", *measure(size, arguments.rounds)]
    atomic_write_text(arguments.out, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
