"""What the training loop costs beyond the step itself: Composer with our algorithms and callbacks against a bare loop.

Both run the same updates on the same batches held in memory: forward, backward, clipping, AdamW, EMA. The difference is
Composer's events, its copies of the batch, the history and the meters. Times are CPU time per batch, the lower quartile
over batches and rounds: what else the machine does can only add to it.

    python benchmarks/composer_overhead.py [--method sft] [--batches 60] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from attrs import evolve
from composer.core import Callback, DataSpec, State
from composer.loggers import Logger
from composer.models import ComposerModel

from harness.algorithms.counter_randomness import draws_at
from harness.algorithms.generator_ema import average
from harness.algorithms.gradient_clipping import clip_gradients
from harness.algorithms.updates import update_order
from harness.config.load import load_params
from harness.config.schema import RunConfig
from harness.config.structure import structure
from harness.data.loader import size_of, split_batch
from harness.io import write_json
from harness.methods.causal_sft import CausalSFT
from harness.methods.dmd import DMD
from harness.methods.sft import SFT
from harness.models.condition import POSITION_CHANNELS, Condition
from harness.models.presets import build_model, geometry
from harness.training.assembly import build_optimizer, build_training, method_settings, optimizers

ROUNDS = 3


def build(config: RunConfig) -> ComposerModel:
    """The method with random weights."""
    torch.manual_seed(0)
    generator = build_model(config.model, zero_output=False)
    if config.method == "sft":
        return SFT(generator, config.sft)
    if config.method == "causal_sft":
        return CausalSFT(generator, config.causal_sft, config.rollout.frames_per_block)
    critic, teacher = (build_model(config.model, zero_output=False) for _ in range(2))
    return DMD(generator, critic, teacher, config.dmd, config.rollout)


def make_batch(config: RunConfig, number: int, size: int, text_length: int) -> dict[str, Any]:
    """A batch of noise of the preset's shape."""
    rng = torch.Generator().manual_seed(number)
    shape = geometry(config.model)
    samples = method_settings(config).batch_size
    extra = shape.in_channels - shape.out_channels
    y = torch.randn(samples, extra, config.frames, size, size, generator=rng) if extra == POSITION_CHANNELS else None
    return {
        "latent": torch.randn(samples, shape.out_channels, config.frames, size, size, generator=rng),
        "condition": Condition(text=torch.randn(samples, text_length, shape.text_dim, generator=rng), y=y),
        "key": [str(n) for n in range(samples)],
    }


class Stamps(Callback):
    """CPU time at the end of every batch."""

    def __init__(self) -> None:
        self.times = [0.0]

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin."""
        self.times = [time.process_time()]

    def batch_end(self, state: State, logger: Logger) -> None:
        """Note the time."""
        self.times.append(time.process_time())


def composer_times(config: RunConfig, batches: list[dict[str, Any]]) -> list[float]:
    """Seconds of CPU per batch under the Trainer."""
    stamps = Stamps()
    data = DataSpec(batches, split_batch=split_batch, get_num_samples_in_batch=size_of)
    with tempfile.TemporaryDirectory() as folder:
        build_training(
            config,
            build(config),
            data,
            Path(folder),
            fingerprint="benchmark",
            save_best=lambda network: None,
            watchers=lambda order, history: [stamps],
        ).trainer.fit()
    return [b - a for a, b in zip(stamps.times, stamps.times[1:], strict=False)]


def bare_times(config: RunConfig, batches: list[dict[str, Any]]) -> list[float]:
    """Seconds of CPU per batch in a plain loop over the same updates."""
    method, order, adamw = build(config), update_order(config), optimizers(config)
    optimizer = build_optimizer(method)
    shadow = [parameter.detach().clone() for parameter in method.get_submodule("generator").parameters()]
    method.train()
    times = []
    for number, batch in enumerate(batches[: order.batches]):
        start = time.process_time()
        role = order.role(number)
        if config.method == "dmd":
            method.phase = role  # type: ignore[assignment]
        method.draws = draws_at(config.seed, number, 0)  # type: ignore[assignment]
        optimizer.zero_grad(set_to_none=True)
        method(batch)["loss"].backward()
        gradients = [p.grad for p in method.get_submodule(role).parameters() if p.grad is not None]
        clip_gradients(gradients, adamw[role].clip_norm)
        optimizer.step()
        if role == "generator":
            weights = [parameter.detach() for parameter in method.get_submodule("generator").parameters()]
            average(shadow, weights, method_settings(config).ema_decay)
        times.append(time.process_time() - start)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["sft", "causal_sft", "dmd"], action="append")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--out", help="JSON file for the numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset = load_params(arguments.params).preset
    size = preset.data.height // preset.encoders.spatial_factor
    results = {}
    for name in arguments.method or ["sft", "dmd"]:
        fields = {"preset": "benchmark", "method": name, "seed": 0, "init": {"kind": "random"}}
        config = structure(RunConfig, {**preset.run, **fields}, arguments.params)
        ratio = config.dmd.critic_updates_per_generator_update
        config = evolve(
            config,
            sft=evolve(config.sft, updates=arguments.batches),
            causal_sft=evolve(config.causal_sft, updates=arguments.batches),
            dmd=evolve(config.dmd, generator_updates=max(arguments.batches // (1 + ratio), 1), critic_warmup_updates=0),
            save_every_batches=10**9,
        )
        batches = [make_batch(config, number, size, preset.encoders.text_length) for number in range(arguments.batches)]
        rounds = [(composer_times(config, batches), bare_times(config, batches)) for _ in range(ROUNDS)]
        composer, bare = (1e3 * statistics.quantiles([t for r in rounds for t in r[i][2:]], n=4)[0] for i in range(2))
        results[name] = {
            "composer_ms": round(composer, 2),
            "bare_ms": round(bare, 2),
            "ratio": round(composer / bare, 3),
        }
        print(f"{name}: Composer {composer:.1f} ms, bare loop {bare:.1f} ms per batch: {composer / bare:.3f} times")
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
