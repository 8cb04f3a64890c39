"""One Composer Trainer over one method: the optimizer, the algorithms in their order, the callbacks in theirs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from composer import Callback, Trainer
from composer.core import DataSpec
from composer.models import ComposerModel
from composer.utils import dist, get_device
from torch import nn

from harness.algorithms.alternating_updates import AlternatingUpdates
from harness.algorithms.counter_randomness import CounterRandomness
from harness.algorithms.generator_ema import GeneratorEMA
from harness.algorithms.gradient_clipping import GradientClipping
from harness.algorithms.learning_rate import RoleLearningRates
from harness.algorithms.long_tuning import LongTuning
from harness.algorithms.rollouts_ahead import RolloutsAhead
from harness.algorithms.updates import Role, UpdateOrder, update_order
from harness.callbacks.compute_meter import ComputeMeter
from harness.callbacks.history import History
from harness.callbacks.quality_monitor import QualityMonitor, SampleAndScore
from harness.config.schema import AdamWConfig, CausalSFTConfig, DMDConfig, RunConfig, SFTConfig
from harness.data.loader import LookAhead
from harness.errors import HarnessError
from harness.methods.long_sequence import LongSequence
from harness.models.codec import VAE, as_first_latent
from harness.training.checkpointing import Checkpointing
from harness.training.parallelism import check_sharding, copies, parallelism_settings, shard_networks
from harness.training.precision import forbid_cached_casts, trainer_precision


@frozen(kw_only=True)
class Training:
    """A Trainer that is ready to fit, and the parts whose results are read afterwards."""

    trainer: Trainer
    order: UpdateOrder
    ema: GeneratorEMA
    meter: ComputeMeter
    history: History
    monitor: QualityMonitor | None


def method_settings(config: RunConfig) -> SFTConfig | CausalSFTConfig | DMDConfig:
    """The section of the run's own method."""
    return {"sft": config.sft, "causal_sft": config.causal_sft, "dmd": config.dmd}[config.method]


def optimizers(config: RunConfig) -> dict[Role, AdamWConfig]:
    """Role → its optimizer's settings."""
    if config.method == "dmd":
        return {"generator": config.dmd.generator_optimizer, "critic": config.dmd.critic_optimizer}
    return {"generator": (config.sft if config.method == "sft" else config.causal_sft).optimizer}


def batch_per_process(config: RunConfig, world_size: int) -> int:
    """Samples of each process's batch. Raises HarnessError if the global batch does not divide."""
    size = method_settings(config).batch_size
    if size % world_size:
        raise HarnessError(
            f"{config.method}.batch_size: {size} does not divide over {world_size} processes; choose a multiple of it"
        )
    return size // world_size


def build_training(
    config: RunConfig,
    method: ComposerModel,
    data: DataSpec,
    folder: Path,
    *,
    fingerprint: str,
    save_best: Callable[[nn.Module], None],
    sample_and_score: SampleAndScore | None = None,
    watchers: Callable[[UpdateOrder, History], Sequence[Callback]] = lambda order, history: (),
    vae: VAE | None = None,
) -> Training:
    """Put a run together; `trainer.fit()` then goes on from the newest good state in `folder`.

    config             the run
    method             with its networks, unwrapped
    data               batches of `batch_per_process` samples
    folder             receives `history.csv`, `quality.csv` and `states/`
    fingerprint        of the run; other runs' states are refused
    save_best          writes a network's weights as the best so far
    sample_and_score   for the monitor; without it quality is not measured
    watchers           more callbacks that change no number (progress, trackers)
    vae                for long tuning, which encodes frames anew

    Raises:
        HarnessError: settings that do not fit the machine or the number of processes.
    """
    forbid_cached_casts()
    world_size, rank = dist.get_world_size(), dist.get_global_rank()
    order, adamw, settings = update_order(config), optimizers(config), method_settings(config)
    networks: dict[str, nn.Module] = method.networks()  # type: ignore[operator]
    trained: dict[Role, nn.Module] = {role: networks[role] for role in adamw}
    whole_copies = copies(config.parallelism, world_size) if config.parallelism.kind != "ddp" else None
    check_sharding(config.parallelism, world_size)
    share = batch_per_process(config, world_size)
    microbatch = min(config.parallelism.device_microbatch_size or share, share)

    meter = ComputeMeter(networks, world_size)
    if config.parallelism.kind == "ddp" and config.parallelism.activation_checkpointing:
        for network in trained.values():
            network.enable_gradient_checkpointing()  # type: ignore[operator]
    shard_networks(networks, config.parallelism)
    randomness = CounterRandomness(method, seed=config.seed, rank=rank, microbatches=math.ceil(share / microbatch))
    ahead = None
    if config.method == "dmd" and config.dmd.rollouts_ahead:
        data.dataloader = batches = LookAhead(data.dataloader)
        ahead = RolloutsAhead(method, order, data, batches, randomness)
    long = _long_tuning(config, method, vae)
    ema = GeneratorEMA(method, decay=settings.ema_decay, start=settings.ema_start, order=order)
    clipping = GradientClipping(method, {r: c.clip_norm for r, c in adamw.items()}, order, copies=whole_copies)
    history = History(
        folder / "history.csv",
        every=config.log_every_batches,
        order=order,
        clipping=clipping,
        meter=meter,
        ema=ema,
        writes=rank == 0,
    )
    monitor = None
    every = config.monitor_every_updates
    if sample_and_score is not None and every is not None:
        monitor = QualityMonitor(
            sample_and_score,
            ema=ema,
            metric=config.monitor.metric,
            every=every,
            order=order,
            meter=meter,
            path=folder / "quality.csv",
            save=save_best,
            at_start=config.init.kind != "random",
            patience=config.monitor.patience,
            writes=rank == 0,
        )
    parts: Mapping[str, Any] = {"ema": ema, "meter": meter, "history": history}
    parts = parts if monitor is None else {**parts, "monitor": monitor}
    parts = parts if ahead is None else {**parts, "ahead": ahead}
    parts = parts if long is None else {**parts, "long": long}
    checkpointing = Checkpointing(
        folder / "states",
        stage=f"{config.method} of {config.model} from {config.init.kind}, seed {config.seed}",
        fingerprint=fingerprint,
        every=config.save_every_batches,
        keep=config.keep_states,
        batches=order.batches,
        method=method,
        roles=list(adamw),
        parts=parts,
    )
    trainer = Trainer(
        model=method,
        train_dataloader=data,
        optimizers=build_optimizer(method),
        max_duration=f"{order.batches}ba",
        algorithms=[
            *([AlternatingUpdates(method, order)] if config.method == "dmd" else []),
            RoleLearningRates(order, adamw),
            randomness,
            *([ahead] if ahead is not None else []),
            *([long] if long is not None else []),
            clipping,
            ema,
        ],
        callbacks=[
            meter,  # first: what comes after it is not training's cost
            history,
            *([monitor] if monitor is not None else []),
            *watchers(order, history),
            checkpointing,
        ],
        device_train_microbatch_size=microbatch,
        precision=trainer_precision(config),
        parallelism_config=parallelism_settings(config.parallelism, world_size),
        seed=config.seed,
        run_name=fingerprint[:16],
        progress_bar=False,
        log_to_console=False,
        python_log_level="error",
    )
    return Training(trainer=trainer, order=order, ema=ema, meter=meter, history=history, monitor=monitor)


def _long_tuning(config: RunConfig, method: nn.Module, vae: VAE | None) -> LongTuning | None:
    """The algorithm that carries long videos on, if the run is tuned on them. Raises `ValueError` without a VAE."""
    if not config.long_tuning.enabled:
        return None
    if vae is None:
        raise ValueError("long tuning encodes frames anew: give the VAE")
    as_image = functools.partial(as_first_latent, get_device(None).module_to_device(vae))
    return LongTuning(method, lambda: LongSequence(config.long_tuning, config.rollout, config.frames, as_image))


def build_optimizer(method: ComposerModel) -> torch.optim.AdamW:
    """One AdamW with a named group per trained network (Composer takes exactly one optimizer)."""
    return torch.optim.AdamW(method.parameter_groups(), fused=True)  # type: ignore[operator]
