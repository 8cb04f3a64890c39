"""What one cycle of distillation costs, done the straightforward way and done as here, with the same losses.

A cycle is one generator update and five critic updates, each with its optimizer step. *Straightforward* means one
rollout per critic update, every pass full (512 text positions where the text is padded to 512), the keys and values of
the text made anew in every pass, the commit of every block, the last one too, a whole forward pass, the conditional and
the unconditional teacher pass one after the other, gradient checkpointing. All variants make the same cycles in turns,
so that what else the machine does falls on all of them; the tables hold medians over the rounds. Memory is measured in
a process of its own for each variant: what one cycle adds to what was there before.

    python benchmarks/dmd_cycle.py [--geometry tiny] [--rounds 3] [--out benchmarks/results/dmd_cycle.md]

On a GPU the same script runs in bf16 and adds the model FLOPs utilization.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attrs import asdict, frozen
from torch import Tensor, nn

from harness.algorithms.gradient_clipping import clip_gradients
from harness.callbacks.flops import DenoiserCost
from harness.config.schema import AdamWConfig, DMDConfig, RolloutConfig
from harness.diffusion.schedule import warp_steps
from harness.io import atomic_write_text
from harness.machine import processor_name
from harness.methods.dmd import DMD, Sample
from harness.methods.draws import Draws
from harness.models.block import EmbeddedCondition
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition, pad_text
from harness.models.kv_cache import KVCache
from harness.models.presets import MODELS, WanGeometry
from harness.rollout.block import denoise_block
from harness.rollout.causal import block_spans
from harness.rollout.few_step import draw_exit_steps, num_blocks
from harness.rollout.stream import commit_block, noised_context

RATIO = 5
PARTS = ("rollout", "teacher", "critic", "backward", "other")
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense FLOP/s, from the vendor's data sheets


@frozen(kw_only=True)
class Geometry:
    """A network, a clip and a text. `real_text` positions of the text are not padding."""

    title: str
    wan: WanGeometry
    frames: int
    size: int  # latent pixels, both ways
    text: int
    real_text: int
    batch: int
    steps: tuple[int, ...] = (1000, 750, 500, 250)


TINY = {"wan": MODELS["tiny"], "frames": 9, "size": 6, "text": 24, "real_text": 12, "batch": 8}
GEOMETRIES = {
    "tiny": Geometry(title="tiny: 4 layers of 96, 9 frames of 9 tokens, batch 8, 4 steps", **TINY),
    "tiny_recipe": Geometry(title="tiny, its own recipe: 1 step", **TINY, steps=(1000,)),
    "middle": Geometry(
        title="middle: 8 layers of 256, 21 frames of 64 tokens, batch 1, 4 steps",
        wan=WanGeometry(
            num_attention_heads=4, attention_head_dim=64, num_layers=8, ffn_dim=1024, text_dim=512, freq_dim=256
        ),
        frames=21,
        size=16,
        text=512,
        real_text=64,
        batch=1,
    ),
}


class FullWan(CausalWan):
    """Every pass full: the text's padding is not collapsed, and a commit is a forward pass with last layer and head."""

    def forward(self, *args: Any, cache: KVCache | None = None, write_cache: bool = False, **kwargs: Any) -> Any:
        """As `CausalWan`."""
        if cache is None or not write_cache:
            return super().forward(*args, cache=cache, **kwargs)
        kept: list[Any] = []
        hooks = [block.register_forward_hook(lambda m, i, output: kept.append(output[1])) for block in self.blocks]
        output = super().forward(*args, cache=cache, **kwargs)
        for hook in hooks:
            hook.remove()
        cache.commit(kwargs.get("frame_offset", 0), kwargs["hidden_states"].shape[2], kept)
        return output

    def _embed_condition(self, text: Tensor, image: Tensor | None) -> EmbeddedCondition:
        dtype = self.condition_embedder.text_embedder.linear_1.weight.dtype
        return EmbeddedCondition(text=self.condition_embedder.text_embedder(text.to(dtype)))


class TwoPasses(FullWan):
    """The two halves of a guided call, one after the other."""

    def forward(self, **kwargs: Any) -> tuple[Tensor]:
        """As `CausalWan`."""
        halves: list[dict[str, Any]] = [
            {name: x.chunk(2)[half] if isinstance(x, Tensor) else x for name, x in kwargs.items()} for half in (0, 1)
        ]
        return (torch.cat([super(TwoPasses, self).forward(**half)[0] for half in halves]),)


class SelfAttentionOnly(KVCache):
    """A cache that forgets the text's keys and values."""

    def store_condition(self, source: tuple[object, ...], version: int, stored: object) -> None:
        """Forget."""


class StraightforwardDMD(DMD):
    """One rollout per update; every block is committed."""

    def generate(self, like: Tensor, condition: Condition) -> tuple[Tensor, list[int]]:
        """As `DMD`."""
        config, frames = self.rollout_config, like.shape[2]
        exits = draw_exit_steps(config, num_blocks(config, frames), self.draws.shared)
        noise, rng = self.draws.noise_like(like), self.draws.local
        steps, cache, blocks = warp_steps(config.denoising_steps, config.shift), SelfAttentionOnly(), []
        for (start, end), exit_step in zip(block_spans(frames, config.frames_per_block), exits, strict=True):
            own = noise[:, :, start:end]
            x0 = denoise_block(
                self.generator,
                own,
                condition,
                steps,
                exit_step,
                rng,
                with_gradient=True,
                cache=cache,
                frame_offset=start,
            )
            blocks.append(x0)
            commit_block(self.generator, noised_context(x0, 0.0, rng), condition, cache, start, 0.0)
        return torch.cat(blocks, dim=2), exits

    def critic_sample(self, like: Tensor, condition: Condition) -> Sample:
        """As `DMD`."""
        x, exits = self.generate(like, condition)
        return Sample(x=x, exit_steps=exits, rng=self.draws.local.get_state())


@frozen(kw_only=True)
class Variant:
    """A way to do the cycle."""

    title: str
    straightforward: bool = False
    checkpointing: bool = True
    ahead: bool = False


VARIANTS = {
    "straightforward": Variant(title="straightforward, checkpointing", straightforward=True),
    "ours": Variant(title="ours, checkpointing"),
    "ours_ahead": Variant(title="ours, checkpointing, rollouts ahead", ahead=True),
    "ours_plain": Variant(title="ours, no checkpointing", checkpointing=False),
    "ours_plain_ahead": Variant(title="ours, no checkpointing, rollouts ahead", checkpointing=False, ahead=True),
}


class Clock:
    """Wall and CPU seconds of the parts of a cycle, and model FLOPs."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.flops = 0

    def now(self) -> tuple[float, float]:
        """Wall and CPU time, after the accelerator has finished."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside."""
        wall, cpu = self.now()
        yield
        end_wall, end_cpu = self.now()
        self.wall[name] += end_wall - wall
        self.cpu[name] += end_cpu - cpu

    def watch(self, network: nn.Module, name: str) -> None:
        """Count every call of a network."""
        cost, inner = DenoiserCost(network), network.forward
        trained = any(parameter.requires_grad for parameter in network.parameters())

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.flops += cost.of(args, kwargs) * (3 if trained and torch.is_grad_enabled() else 1)
            with self.part(name):
                return inner(*args, **kwargs)

        network.forward = forward  # type: ignore[method-assign]


class Cycles:
    """A method with its optimizer, and the cycles it has done."""

    def __init__(self, geometry: Geometry, variant: Variant) -> None:
        torch.manual_seed(0)
        self.geometry, self.variant = geometry, variant
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        plain = variant.straightforward
        classes = (FullWan, FullWan, TwoPasses) if plain else (CausalWan,) * 3
        with torch.device(self.device):
            generator, critic, teacher = (cls(**asdict(geometry.wan)) for cls in classes)
        adam = AdamWConfig(lr=1e-5, betas=(0.0, 0.999))
        config = DMDConfig(generator_updates=1, generator_optimizer=adam, critic_optimizer=adam)
        rollout = RolloutConfig(denoising_steps=geometry.steps)
        self.method = (StraightforwardDMD if plain else DMD)(generator, critic, teacher, config, rollout)
        if variant.checkpointing:
            generator.enable_gradient_checkpointing()
            critic.enable_gradient_checkpointing()
        self.optimizer = torch.optim.AdamW(self.method.parameter_groups(), fused=True)
        self.method.train()

    def batch(self, number: int) -> dict[str, Any]:
        """Batch `number`, the same for every variant."""
        own, g = torch.Generator().manual_seed(number), self.geometry
        text = pad_text(torch.randn(g.batch, g.real_text, g.wan.text_dim, generator=own), g.text)
        extra = g.wan.in_channels - g.wan.out_channels
        y = torch.randn(g.batch, extra, g.frames, g.size, g.size, generator=own) if extra else None
        empty = pad_text(torch.randn(1, 1, g.wan.text_dim, generator=own), g.text)
        latent = torch.zeros(g.batch, g.wan.out_channels, g.frames, g.size, g.size, device=self.device)
        return {"latent": latent, "condition": Condition(text=text, y=y, unconditional_text=empty).to(self.device)}

    def cycle(self, number: int) -> tuple[Clock, list[float]]:
        """Run cycle `number`: its clock, its losses."""
        clock, losses, method = Clock(), [], self.method
        networks = method.networks()
        for role, name in (("generator", "rollout"), ("critic", "critic"), ("teacher", "teacher")):
            clock.watch(networks[role], name)
        first = number * (1 + RATIO)
        with clock.part("all"):
            for batch in range(first, first + 1 + RATIO):
                role = "generator" if batch == first else "critic"
                method.phase, method.draws, method.upcoming = role, Draws.at(0, batch), ()
                if self.variant.ahead and batch == first + 1:
                    later = [(self.batch(n), Draws.at(0, n)) for n in range(batch + 1, batch + RATIO)]
                    method.upcoming = [(b["latent"], b["condition"], draws) for b, draws in later]
                self.optimizer.zero_grad(set_to_none=True)
                with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                    loss = method(self.batch(batch))["loss"]
                with clock.part("backward"):
                    loss.backward()
                clip_gradients([p.grad for p in networks[role].parameters() if p.grad is not None], 10.0)
                self.optimizer.step()
                losses.append(loss.item())
        for network in networks.values():
            del network.forward
        for times in (clock.wall, clock.cpu):
            times["other"] = 2 * times["all"] - sum(times.values())
        return clock, losses


def peak_of(geometry: str, variant: str) -> float:
    """MiB that a cycle adds, in a process of its own."""
    command = [sys.executable, __file__, "--peak", geometry, variant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(geometry: str, variant: str) -> float:
    """MiB that the first cycle adds to what the networks take."""
    cycles = Cycles(GEOMETRIES[geometry], VARIANTS[variant])
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated() / 2**20
        cycles.cycle(0)
        return torch.cuda.max_memory_allocated() / 2**20 - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_mib("VmRSS")
    cycles.cycle(0)
    return resident_mib("VmHWM") - before


def resident_mib(name: str) -> float:
    """Resident memory of this process now (`VmRSS`) or at its peak (`VmHWM`), from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def compare(name: str, variants: Sequence[str], rounds: int) -> list[str]:
    """A geometry's section of the report, as lines of Markdown."""
    geometry = GEOMETRIES[name]
    running = {variant: Cycles(geometry, VARIANTS[variant]) for variant in variants}
    clocks: dict[str, list[Clock]] = defaultdict(list)
    difference = 0.0
    for number in range(rounds):
        expected: list[float] = []
        for variant, cycles in running.items():
            clock, losses = cycles.cycle(number)
            clocks[variant].append(clock)
            print(f"{name}, round {number}, {variant}: {clock.cpu['all']:.2f} CPU s", file=sys.stderr, flush=True)
            expected = expected or losses
            difference = max(difference, *(abs(a - b) / abs(a) for a, b in zip(expected, losses, strict=True)))
    del running
    lines = [f"## {geometry.title}", ""]
    lines.append(f"Text: {geometry.text} positions, {geometry.real_text} of them not padding. {rounds} rounds.")
    lines.append(f"Largest difference between the losses of any two variants: {difference:.1e} of the loss.")
    head = ["variant", "CPU s", "ratio", "wall s", "ratio", *(f"{part} (CPU s)" for part in PARTS), "peak MiB"]
    head += ["MFU"] if torch.cuda.is_available() else []
    lines += ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    base = clocks[variants[0]]
    for variant in variants:
        own = clocks[variant]
        cells = [VARIANTS[variant].title]
        for kind in ("cpu", "wall"):
            times = [getattr(clock, kind)["all"] for clock in own]
            ratios = [getattr(b, kind)["all"] / t for b, t in zip(base, times, strict=True)]
            cells += [f"{statistics.median(times):.2f}", f"{statistics.median(ratios):.2f}"]
        shown = "wall" if torch.cuda.is_available() else "cpu"
        cells += [f"{statistics.median(getattr(clock, shown)[part] for clock in own):.2f}" for part in PARTS]
        cells.append(f"{peak_of(name, variant):,.0f}")
        if torch.cuda.is_available():
            peak = next((flops for gpu, flops in PEAK_BF16.items() if gpu in torch.cuda.get_device_name()), None)
            useful = clocks[variants[1]]  # what the losses need, not what a variant spends
            rate = statistics.median(u.flops / c.wall["all"] for u, c in zip(useful, own, strict=True))
            cells.append(f"{rate / peak:.1%}" if peak else f"{rate / 1e12:.1f} TFLOP/s")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=list(GEOMETRIES), action="append")
    parser.add_argument(
        "--variant", choices=list(VARIANTS), action="append", help="the first is what others are compared with"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(json.dumps(measure_peak(*arguments.peak)))
        return
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor_name()}, one thread"
    lines = [
        "# One cycle of distillation: 1 generator and 5 critic updates",
        "",
        f"{machine}, torch {torch.__version__}.",
        "",
    ]
    for name in arguments.geometry or GEOMETRIES:
        lines += compare(name, arguments.variant or list(VARIANTS), arguments.rounds)
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        atomic_write_text(arguments.out, text)


if __name__ == "__main__":
    main()
