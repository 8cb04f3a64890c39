"""What a configuration will do, in words and numbers, before anything runs.

Everything is computed in closed form from the configuration: no model is built and no data is read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import evolve

from harness.config.costs import (
    block_counts,
    dmd_updates,
    ema_half_life,
    long_rollout_cost,
    pixel_frames,
    sampling_forwards,
    training_rollout_cost,
    warped_timesteps,
)
from harness.config.documents import read_yaml
from harness.config.explain_long import Line, adapters, long_evaluation, long_tuning
from harness.config.load import SEEDLESS, load_params, resolve_file, resolve_preset, split_target
from harness.config.runs import find_run
from harness.config.schema import (
    AdamWConfig,
    CausalSFTConfig,
    Preset,
    RolloutConfig,
    RunConfig,
    SFTConfig,
)
from harness.config.structure import suggest
from harness.errors import HarnessError

PROCESSES = (1, 8, 64)  # for which the split of a batch is shown


def explain(config: RunConfig, preset: Preset, note: str | None = None) -> str:
    """A page of text about a run; a `note` stands under its first section."""
    notes = [("note", note)] if note else []
    sections = [("Run", [*_run(config), *notes]), ("Data", _data(config, preset))]
    if config.method == "dmd":
        sections += [("Rollout", _rollout(config)), ("Distillation", _dmd(config))]
        if config.long_tuning.enabled:
            sections += [("Long tuning", long_tuning(config, preset.encoders.temporal_factor))]
        sections += [("Budget", _dmd_budget(config))]
    else:
        section = config.sft if config.method == "sft" else config.causal_sft
        sections += [("Training", _sft(config, section))]
    sections += [("Monitor", _monitor(config, preset.encoders.temporal_factor)), ("Machine", _machine(config))]
    lists = {title: list(lines) for title, lines in sections}
    width = max(len(name) for lines in lists.values() for name, _ in lines)
    page: list[str] = []
    for title, lines in lists.items():
        page += [title, *(f"  {name:<{width}}  {text}" for name, text in lines), ""]
    return "\n".join(page)


def _run(config: RunConfig) -> Iterable[Line]:
    what = {
        "sft": "flow matching on real clips, bidirectional attention",
        "causal_sft": "flow matching on real clips, block-causal attention",
        "dmd": "distribution matching distillation of the teacher into a few-step generator",
    }
    starts = {
        "random": "random weights",
        "teacher": f"the teacher's weights ({config.teacher})",
        "causal_sft": "the causal SFT of the same seed "
        f"({config.init.path or 'checkpoints/causal_sft'}/seed{config.seed}/model)",
        "student": f"the student of the same seed ({config.init.path}/seed{config.seed}/model)",
        "checkpoint": f"the diffusers folder {config.init.path}",
    }
    yield "method", f"{config.method}: {what[config.method]}"
    yield "model", f"{config.model} (preset {config.preset}), seed {config.seed}"
    yield "starts from", starts[config.init.kind]
    if config.method == "dmd":
        yield (
            "critic starts from",
            f"the teacher's weights ({config.teacher})" if config.critic is None else config.critic,
        )


def _data(config: RunConfig, preset: Preset) -> Iterable[Line]:
    data, encoders = preset.data, preset.encoders
    height, width = data.height // encoders.spatial_factor, data.width // encoders.spatial_factor
    length = pixel_frames(config.frames, encoders.temporal_factor)
    seconds = length / data.fps
    yield (
        "clip",
        f"{config.frames} latent frames of {height}×{width} ({encoders.latent_channels} channels): "
        f"{length} frames of {data.height}×{data.width}, {seconds:.1f} s at {data.fps} per second",
    )
    images = ", and image tokens and `y` of their first frames," if config.rollout.has_image else ""
    if config.prompts is not None:
        yield "needs", f"the prompts in {config.prompts}; clips only for the monitor"
        batches, batch = dmd_updates(config.dmd)[0], config.dmd.batch_size
    elif config.method == "dmd":
        yield "needs", f"captions{images} of the clips in {config.data}/train: no real latent enters the loss"
        batches, batch = dmd_updates(config.dmd)[0], config.dmd.batch_size
    else:
        section = config.sft if config.method == "sft" else config.causal_sft
        yield "needs", f"latents and captions{images} of the clips in {config.data}/train"
        batches, batch = section.updates, section.batch_size
    if config.rollout.has_image:
        yield "first frame", _image(config)
    if config.captions_with is not None:
        yield "only", f"captions with the words {config.captions_with!r}"
    if config.prompts is not None or config.captions_with is not None:
        yield "reads", f"{batches * batch:,} samples"
        return
    passes = batches * batch / data.clips.train
    yield "reads", f"{batches * batch:,} samples: {passes:.1f} passes over {data.clips.train:,} clips"


def _image(config: RunConfig) -> str:
    """How a given image reaches the networks."""
    cached = config.method == "dmd" and config.rollout.attention == "causal"
    place = "in the cache before the first block" if cached else "clean at t = 0"
    ways = {
        "channels": "given as image tokens and `y` on channels; the model generates all frames",
        "first_latent": f"given as its latent, frame 0, {place}, without loss; the model reads no image",
        "both": f"given as image tokens and `y`, and as its latent, frame 0, {place}, without loss",
    }
    scores = "; critic and teacher get tokens and `y`" if config.method == "dmd" else ""
    return ways[config.rollout.image_conditioning] + scores


def _steps(rollout: RolloutConfig) -> str:
    timesteps = warped_timesteps(rollout.denoising_steps, rollout.shift)
    sigmas = ", ".join(f"{t / 1000:.4g}" for t in timesteps)
    return (
        f"t = {', '.join(f'{t:.6g}' for t in timesteps)} "
        f"(indices {list(rollout.denoising_steps)} warped by shift {rollout.shift:g}); sigma = {sigmas}"
    )


def _rollout(config: RunConfig) -> Iterable[Line]:
    rollout = config.rollout
    cost = training_rollout_cost(rollout, config.frames)
    exits = {
        "uniform": "drawn uniformly, one for all blocks and all ranks",
        "uniform_per_block": "drawn uniformly for each block, the same on all ranks",
        "last": "always the last",
    }
    yield "denoising steps", _steps(rollout)
    yield (
        "exit step",
        f"{exits[rollout.exit_step]}; {cost.steps_per_block:g} of {len(rollout.denoising_steps)} on average",
    )
    if rollout.attention == "bidirectional":
        yield "attention", f"bidirectional: all {config.frames} latent frames at once, no cache"
        return
    given, clean = "", ""
    if rollout.first_frame_given:
        given, clean = " after the given first frame", ", the given first frame clean"
    blocks = f"{cost.blocks} blocks of {rollout.frames_per_block}{given}"
    yield "attention", f"causal: {blocks}; a block sees {_reach(rollout)}"
    yield "context", f"finished blocks are written to the cache at sigma {rollout.context_sigma:g}{clean}"
    gradient = {
        "detach": "cached keys and values are detached, as in the paper",
        "straight_through": "gradient flows into earlier blocks through the cache, as in the released code",
    }
    yield "gradient", f"at the exit step of the last {rollout.gradient_frames} frames; {gradient[rollout.kv_grad]}"


def _reach(rollout: RolloutConfig) -> str:
    if rollout.window == -1:
        return "all earlier frames"
    recent = max(rollout.window - rollout.sink - rollout.frames_per_block, 0)
    sink = f"the first {rollout.sink} (sink), " if rollout.sink else ""
    return f"{sink}the last {recent} finished frames, and itself: a window of {rollout.window}"


def _dmd(config: RunConfig) -> Iterable[Line]:
    dmd = config.dmd
    batches, critic = dmd_updates(dmd)
    ratio, warmup = dmd.critic_updates_per_generator_update, dmd.critic_warmup_updates
    yield (
        "updates",
        f"{dmd.generator_updates:,} of the generator, {critic:,} of the critic "
        f"({ratio} between two of the generator's, {warmup} before its first): {batches:,} batches",
    )
    yield (
        "in iterations",
        f"{dmd.generator_updates * ratio:,}, as the references count: one for each critic update, "
        f"every {_nth(ratio)} of which updates the generator too",
    )
    yield "batch", f"{dmd.batch_size} clips over all processes"
    yield (
        "guidance",
        f"cfg_scale {dmd.cfg_scale:g} of the teacher's score, uncond + {dmd.cfg_scale:g}·(cond − uncond); "
        f"the reference calls it guidance_scale: {dmd.cfg_scale - 1:g}",
    )
    yield "score timestep", f"uniform, shift {dmd.shift:g}, clamped to {dmd.min_t:g}…{dmd.max_t:g}"
    normalizers = {
        "sample": "mean |x − real| of each sample",
        "block": "mean |x − real| of each block",
        "none": "nothing",
    }
    yield "gradient over", normalizers[dmd.normalize_gradient]
    if config.lora.rank is not None:
        yield "adapters", adapters(config.lora)
    yield "average", _ema(dmd.ema_decay, dmd.ema_start, dmd.generator_updates, "generator updates")
    yield "generator", _adamw(dmd.generator_optimizer, dmd.generator_updates)
    yield "critic", _adamw(dmd.critic_optimizer, critic)
    yield "the loss value", "is a gradient's norm: it says nothing about quality (watch results/…/quality.csv)"


def _dmd_budget(config: RunConfig) -> Iterable[Line]:
    rollout = training_rollout_cost(config.rollout, config.frames)
    if config.long_tuning.enabled:
        rollout = long_rollout_cost(config)
    teacher = 1 if config.dmd.cfg_scale == 1.0 else 2
    _, critic = dmd_updates(config.dmd)
    whole = config.dmd.generator_updates
    yield (
        "a rollout",
        f"{rollout.forwards:.4g} forwards on average, {rollout.context_passes:.3g} of them to fill the cache",
    )
    yield "a generator update", f"a rollout, 1 critic and {teacher} teacher forwards of the whole clip; 1 backward"
    yield "a critic update", "a rollout without gradient and 1 critic forward of the whole clip; 1 backward"
    total = (whole + critic) * rollout.forwards + whole * (1 + teacher) + critic
    yield "in all", f"about {total:,.0f} forwards; the measured compute is in results/…/manifest.json"
    if config.long_tuning.enabled and config.long_tuning.switch_probability:
        yield "a new prompt", "costs as many more as blocks are run again"
    denoising, context = sampling_forwards(config.rollout, config.frames)
    if config.dmd.rollouts_ahead:
        yield "at once", "the rollouts of a cycle's critic updates are one batch: fewer calls, a larger cache"
    yield "a sampled video", f"{denoising} denoising forwards{f' and {context} to fill the cache' if context else ''}"


def _sft(config: RunConfig, section: SFTConfig) -> Iterable[Line]:
    if isinstance(section, CausalSFTConfig):
        blocks, _ = block_counts(evolve(config.rollout, attention="causal"), config.frames)
        after = "a clean first frame, then " if config.rollout.first_frame_given else ""
        contexts = {
            "teacher_forcing": "clean earlier blocks ([clean ‖ noisy] input)",
            "diffusion_forcing": "noisy earlier blocks",
        }
        yield (
            "attention",
            f"block-causal, {after}{blocks} blocks of {config.rollout.frames_per_block}, own t for each block",
        )
        yield "context", f"{section.context}: {contexts[section.context]}"
    yield "updates", f"{section.updates:,} of {section.batch_size} clips over all processes"
    yield (
        "timesteps",
        f"uniform, shift {section.shift:g} (the middle is t = {warped_timesteps([500], section.shift)[0]:.0f})",
    )
    yield "loss weight", {"bell": "a bell around t = 500", "uniform": "the same for all t"}[section.weighting]
    yield "caption dropout", f"{section.caption_dropout:.0%} of captions become the empty prompt, for guidance"
    yield "average", _ema(section.ema_decay, section.ema_start, section.updates, "updates")
    yield "optimizer", _adamw(section.optimizer, section.updates)


def _nth(number: int) -> str:
    return "one" if number == 1 else f"{number}th"


def _ema(decay: float, start: int, updates: int, unit: str) -> str:
    if decay == 0:
        return "none: the weights themselves"
    after = f", from update {start}" if start else ""
    if start >= updates:
        after = f", but it would begin after update {start} of {updates}: the weights themselves are kept"
    return f"EMA {decay:g}: half-life {ema_half_life(decay):.1f} {unit}{after}"


def _adamw(optimizer: AdamWConfig, updates: int) -> str:
    text = f"AdamW, lr {optimizer.lr:g}, betas {list(optimizer.betas)}, decay {optimizer.weight_decay:g}"
    if optimizer.warmup_updates:
        text += f", {optimizer.warmup_updates} warm-up updates"
    if optimizer.final_fraction < 1:
        hold, final = round(optimizer.hold_fraction * updates), optimizer.lr * optimizer.final_fraction
        text += f", held for {hold}, then linear to {final:g}"
    return f"{text}, gradient norm ≤ {optimizer.clip_norm:g}"


def _monitor(config: RunConfig, temporal_factor: int) -> Iterable[Line]:
    monitor = config.monitor
    yield from long_evaluation(config, temporal_factor)
    every = config.monitor_every_updates
    if every is None:
        yield "quality", "not measured during training"
        yield "kept", "the last average weights"
        return
    yield "quality", f"every {every:,} updates on {monitor.clips} validation prompts with fixed noise"
    yield "kept", f"the average weights with the best {monitor.metric}, and the last ones"
    if monitor.patience is not None:
        yield "ends early", f"after {monitor.patience} measurements without a better {monitor.metric}"


def batch_splits(config: RunConfig, processes: Iterable[int] = PROCESSES) -> list[str]:
    """How the batch divides over processes and microbatches; numbers that do not divide it are left out."""
    batch = {"sft": config.sft, "causal_sft": config.causal_sft, "dmd": config.dmd}[config.method].batch_size
    limit = config.parallelism.device_microbatch_size
    lines = []
    for count in processes:
        if batch % count:
            continue
        share = batch // count
        pieces = math.ceil(share / min(limit or share, share))
        lines.append(
            f"{count} process{'es' if count > 1 else ''}: {share} clip{'s' if share > 1 else ''} each"
            + (f" in {pieces} microbatches" if pieces > 1 else "")
        )
    return lines


def _machine(config: RunConfig) -> Iterable[Line]:
    parallelism = config.parallelism
    checkpointing = ", activation checkpointing" if parallelism.activation_checkpointing else ""
    yield (
        "parallelism",
        f"{parallelism.kind}, {config.precision}{checkpointing}, {config.threads} CPU threads a process",
    )
    if parallelism.kind != "ddp":
        degree = parallelism.shard_degree
        shards = "over all processes" if degree is None else f"in groups of {degree} processes, each with a whole copy"
        kept = "" if parallelism.reshard_after_forward else "; the generator's layers stay gathered through a rollout"
        teacher = "; the teacher waits in host memory" if parallelism.teacher_cpu_offload else ""
        yield "weights", f"sharded {shards}{kept}{teacher}"
    if config.attention_backend != "native":
        yield "attention by", f"`{config.attention_backend}` of diffusers' dispatcher"
    yield "batch", "; ".join(batch_splits(config))
    yield "resume state", f"every {config.save_every_batches} batches"


def undeclared(target: str, root: Path = Path(".")) -> str | None:
    """What to say of a target that can be run but that no stage runs: its seed is not declared; None if it is."""
    group, _, seed = split_target(target)
    if group in SEEDLESS:
        return None
    if group in ("causal_sft", "causal_sft_i2v"):
        where, seeds = root / "params.yaml", list(load_params(root / "params.yaml").seeds)
    else:
        where = root / "experiments" / group / "experiment.yaml"
        seeds = read_yaml(where).get("seeds")
    if not isinstance(seeds, list) or seed in seeds:
        return None
    return (
        f"seed {seed} is not declared: {where} has {seeds}, so no stage runs this target; everything else is as below"
    )


def resolve(what: str, method: str | None, overrides: Sequence[str]) -> tuple[RunConfig, str | None]:
    """The configuration behind a word, and a note about it. Raises HarnessError for a word that is none of them."""
    if Path(what).suffix in (".yaml", ".yml"):
        if method is not None:
            raise HarnessError(f"--method goes with a preset; {what} has its own (or give method={method})")
        return resolve_file(what, overrides), None
    presets = load_params().raw["presets"]
    if what in presets:
        return resolve_preset(what, method or "dmd", overrides), None
    if method is not None:
        raise HarnessError(f'--method goes with a preset, and "{what}" is none{suggest(what, presets)}')
    if overrides:
        raise HarnessError(f"{what}: a run is configured whole; give a configuration file or a preset to change keys")
    try:
        found = find_run(what, Path("."))
        return found.config, None if found.is_ad_hoc else undeclared(found.name)
    except HarnessError as error:
        if "names no run" not in str(error):
            raise
        raise HarnessError(f"{error}; or a .yaml file, or a preset: {', '.join(presets)}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """`explain`: what a target, a configuration file or a preset will do."""
    parser = argparse.ArgumentParser(prog="python -m harness explain", description=main.__doc__)
    parser.add_argument(
        "what",
        help="a target (teacher, causal_sft_i2v/both/seed0, EXPERIMENT/ARM/seed0), a finished ad hoc run (runs/NAME), "
        "a .yaml file, a preset's name",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="changes to a configuration file or preset"
    )
    parser.add_argument("--method", help="of a preset: sft, causal_sft or dmd (default: dmd)")
    arguments = parser.parse_intermixed_args(argv)
    config, note = resolve(arguments.what, arguments.method, arguments.overrides)
    print(explain(config, load_params(preset=config.preset).preset, note), end="")
    return 0
