"""What no single key of a configuration can check: a run against its data, settings against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable

from harness.config.chunks import chunk_lengths
from harness.config.metrics import METRICS
from harness.config.models import IMAGE_MODELS, MODELS
from harness.config.schema import Preset, RunConfig
from harness.config.structure import Problem, suggest


def cross_check(config: RunConfig, preset: Preset) -> Iterable[Problem]:
    """The problems, each with the dotted key that is to be changed."""
    latent_frames = 1 + (preset.data.frames - 1) // preset.encoders.temporal_factor
    if config.frames > latent_frames:
        yield "frames", f"{config.frames} latent frames, but clips of {preset.data.frames} frames have {latent_frames}"
    if config.model not in MODELS:
        yield "model", f'"{config.model}" is no model{suggest(config.model, MODELS)}'
    if config.monitor.metric not in METRICS:
        yield "monitor.metric", f'"{config.monitor.metric}" is no metric{suggest(config.monitor.metric, METRICS)}'
    if config.dmd.min_t >= config.dmd.max_t:
        yield "dmd.min_t", f"must be below dmd.max_t ({config.dmd.max_t}), got {config.dmd.min_t}"
    rollout = config.rollout
    ragged = config.frames % rollout.frames_per_block and not rollout.first_frame_given
    if rollout.attention == "causal" and ragged:
        yield (
            "rollout.frames_per_block",
            f"{config.frames} latent frames do not divide into blocks of {rollout.frames_per_block}",
        )
    yield from _check_image(config, preset)
    yield from _check_prompts(config)
    if config.init.kind in ("causal_sft", "student") and config.method != "dmd":
        yield "init.kind", f"{config.init.kind} is a start for dmd only"
    if config.long and preset.long is None:
        yield "long", f"preset {config.preset} has no section `long`; write one, or set it to false"
    yield from _check_long_tuning(config)
    yield from _check_lora(config)
    yield from _check_long_evaluation(config)
    if rollout.window != -1 and rollout.sink >= rollout.window:
        yield "rollout.sink", f"must be below the window ({rollout.window} frames, sink included), got {rollout.sink}"
    elif rollout.window != -1 and rollout.window < rollout.sink + rollout.frames_per_block:
        yield (
            "rollout.window",
            f"must hold the sink and a block ({rollout.sink} + {rollout.frames_per_block} frames), got "
            f"{rollout.window}",
        )


def _check_prompts(config: RunConfig) -> Iterable[Problem]:
    if config.prompts is None:
        return
    if config.method != "dmd":
        yield "prompts", f"{config.method} learns from clips, which a list of prompts has not; set it to null"
    if config.rollout.has_image:
        yield (
            "prompts",
            f"with `rollout.image_conditioning: {config.rollout.image_conditioning}` each prompt needs its first "
            "frame, which a list of prompts has not; set it to null",
        )


def _check_long_tuning(config: RunConfig) -> Iterable[Problem]:
    tuning, rollout, frames = config.long_tuning, config.rollout, config.frames
    longest, shortest, block = tuning.max_frames, tuning.min_new_frames, rollout.frames_per_block
    if not tuning.enabled:
        return
    at = "long_tuning.enabled"
    if config.method != "dmd":
        yield at, f"long tuning is for `method: dmd`, not {config.method}; set it to false"
        return
    if rollout.attention != "causal":
        yield at, "long tuning needs `rollout.attention: causal`: it goes on from the KV cache; set it to false"
        return
    if rollout.has_image:
        yield (
            at,
            f"with `rollout.image_conditioning: {rollout.image_conditioning}` critic and teacher would have to be told "
            "the image of each chunk's first frame, for which training has no image encoder; set it to false",
        )
    if config.dmd.rollouts_ahead:
        yield (
            "dmd.rollouts_ahead",
            "makes rollouts before their turn, but with `long_tuning.enabled` each goes on where the last one "
            "stopped; set it to false",
        )
    if shortest > frames or shortest % block:
        yield (
            "long_tuning.min_new_frames",
            f"must be whole blocks ({block} frames, rollout.frames_per_block) and fit a clip (frames: {frames}), got "
            f"{shortest}",
        )
        return
    if tuning.max_new_frames is not None and not shortest <= tuning.max_new_frames <= frames:
        yield (
            "long_tuning.max_new_frames",
            f"must be from long_tuning.min_new_frames ({shortest}) to the length of a clip (frames: {frames}), got "
            f"{tuning.max_new_frames}",
        )
    if longest < frames:
        yield "long_tuning.max_frames", f"must hold a clip (frames: {frames}), got {longest}"
    elif tuning.switch_probability and longest < frames + shortest:
        yield (
            "long_tuning.switch_probability",
            f"a prompt changes after the first chunk, but {longest} frames (long_tuning.max_frames) hold no second "
            f"one ({frames} + {shortest}); set it to 0",
        )
    chunks = fixed_chunks(config)
    cycle = 1 + config.dmd.critic_updates_per_generator_update
    if chunks is not None and math.gcd(chunks, cycle) > 1:
        yield (
            "long_tuning.max_frames",
            f"every sequence has {chunks} chunks and every {cycle}th update is the generator's (one after "
            f"{cycle - 1} of the critic's), so that it would meet the same chunks again and again: choose numbers "
            "without a common divisor, or let chunks differ in length",
        )
    needed = frames - shortest + 1
    if rollout.window != -1 and rollout.window < needed:
        yield (
            "rollout.window",
            f"must reach one frame beyond the clip that long tuning judges: at least {needed} frames (frames − "
            f"long_tuning.min_new_frames + 1), got {rollout.window}",
        )


def fixed_chunks(config: RunConfig) -> int | None:
    """The number of chunks in a long sequence, where every one has as many; None where their lengths are drawn."""
    made = chunks = 0
    while lengths := chunk_lengths(made, config.frames, config.rollout.frames_per_block, config.long_tuning):
        if len(lengths) > 1:
            return None
        made, chunks = made + lengths[0], chunks + 1
    return chunks


def _check_lora(config: RunConfig) -> Iterable[Problem]:
    if config.lora.rank is not None and config.method != "dmd":
        yield "lora.rank", f"adapters are for `method: dmd`, not {config.method}; set it to null"
    if config.lora.share_teacher and config.lora.rank is None:
        yield (
            "lora.share_teacher",
            "critic and teacher can share weights only where the critic's stay as they are; set lora.rank, or leave "
            "it false",
        )


def _check_long_evaluation(config: RunConfig) -> Iterable[Problem]:
    length, block, shortest = config.evaluate_frames, config.rollout.frames_per_block, 2 * config.frames
    if length is None:
        return
    if length < shortest:
        yield (
            "evaluate_frames",
            f"must be at least twice a training clip ({shortest} latent frames), so that there is a first and a last "
            f"segment, got {length}",
        )
    if config.rollout.attention == "causal" and (length - config.rollout.first_frame_given) % block:
        yield "evaluate_frames", f"must be whole blocks ({block} frames, rollout.frames_per_block), got {length}"


def _check_image(config: RunConfig, preset: Preset) -> Iterable[Problem]:
    way, reads_image = config.rollout.image_conditioning, config.model in IMAGE_MODELS
    at = "rollout.image_conditioning"
    if way in ("channels", "both"):
        if not reads_image:
            yield at, f"`{way}` gives tokens and `y`, which `model: {config.model}` does not read; use {IMAGE_MODELS}"
        if preset.encoders.image_encoder is None:
            yield at, f"`{way}` needs image tokens in the data; set encoders.image_encoder in the preset"
    elif reads_image and config.model in MODELS:
        yield at, f"`model: {config.model}` reads image tokens and `y`: expected channels or both, got {way}"
    if config.rollout.first_frame_given and config.frames < 2:
        yield "frames", "must be at least 2 where the first one is given"
