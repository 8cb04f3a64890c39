"""`python -m harness evaluate RUN`: the evaluation card and clips of a trained target or ad hoc run."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from torch import nn

from harness.config.load import Params, load_params
from harness.config.runs import evaluation_folder, find_run, run_name
from harness.config.schema import EvaluationConfig, RunConfig
from harness.data.conditions import image_condition
from harness.data.digits import Attributes
from harness.data.mds import count_samples, iter_samples
from harness.data.selection import containing
from harness.data.shards import read_fingerprint, verify_shards
from harness.evaluation.bench import SHOWN, Bench, Outcome
from harness.evaluation.card import (
    SCHEMA,
    add_against_teacher,
    add_long,
    check_gate,
    model_block,
    timing_block,
    write_clips,
    write_given,
)
from harness.evaluation.continued import continued, segment_references
from harness.evaluation.evaluators import Evaluators, evaluators_digest, load_evaluators
from harness.evaluation.long_clips import LongBench, long_frames
from harness.evaluation.own_teacher import teacher_metrics
from harness.evaluation.panel import ClipSet
from harness.evaluation.prompts import PromptSet, fixed_prompts, latent_shape
from harness.evaluation.samplers import Sampler, cut_steps, rollout_of
from harness.evaluation.segments import Segmented, segment_spans
from harness.evaluation.stored import beginning, matching_clips, measure_stored, pooled_texts, stored_attributes
from harness.evaluation.switching import turned
from harness.io import digest, write_json
from harness.machine import processor_name
from harness.models.attention_backend import check_backend, set_backend
from harness.models.checkpoint import load_model
from harness.models.codec import load_vae
from harness.models.image import load_image_encoder
from harness.models.reference_latent import factors
from harness.models.text import encode_prompt, load_text_encoder
from harness.tracking.background import publish
from harness.tracking.requests import evaluate_request

TIMED_PROMPTS = 16
CANDIDATES_PER_CLIP = 4  # training clips looked at to find one that matches a prompt


@frozen(kw_only=True)
class Entry:
    """A model of the card: its name, its label, where its weights lie, and how it is sampled."""

    name: str
    label: str
    folder: Path
    sampler: Sampler


def entries(folder: Path, run: RunConfig, evaluation: EvaluationConfig) -> list[Entry]:
    """The models that a run's card has, each with its sampler; `folder`: the run's checkpoints."""
    student = Sampler.few_step(run.rollout)
    count = student.forwards
    cut, guidance = cut_steps(count), evaluation.cut_cfg_scale
    if run.method == "sft":
        weights = folder / "model"

        def euler(steps: int, scale: float) -> Sampler:
            return Sampler(kind="euler", rollout=run.rollout, steps=steps, cfg_scale=scale)

        full = euler(evaluation.teacher_steps, evaluation.teacher_cfg_scale)
        return [
            Entry(name="teacher", label="Teacher", folder=weights, sampler=full),
            Entry(name="teacher_cut_cfg", label="Teacher, cut, guided", folder=weights, sampler=euler(cut, guidance)),
            Entry(name="teacher_cut", label="Teacher, cut, no guidance", folder=weights, sampler=euler(count, 1.0)),
        ]  # fmt: skip
    if run.method == "causal_sft":
        causal = rollout_of(run)

        def ode(steps: int, scale: float) -> Sampler:
            return Sampler(kind="causal_euler", rollout=causal, steps=steps, cfg_scale=scale)

        weights = folder / "model"
        return [
            Entry(name="causal_sft", label="Causal SFT, few-step", folder=weights, sampler=Sampler.few_step(causal)),
            Entry(name="causal_sft_euler", label="Causal SFT, Euler", folder=weights, sampler=ode(count, 1.0)),
            Entry(name="causal_sft_cfg", label="Causal SFT, guided", folder=weights, sampler=ode(cut, guidance)),
        ]  # fmt: skip
    return [
        Entry(name="student", label="Student", folder=folder / "model", sampler=student),
        Entry(name="init", label="Its init, without distillation", folder=folder / "init", sampler=student),
    ]


def build_bench(run: RunConfig, params: Params, evaluators: Evaluators, root: Path) -> Bench:
    """The bench of the test prompts."""
    evaluation = params.preset.evaluation
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = root / run.data
    return Bench(
        evaluators=evaluators,
        vae=load_vae(root / "checkpoints" / "encoders" / "vae").to(device),  # type: ignore[arg-type]
        prompts=fixed_prompts(data, "test", evaluation.clips, run.frames, image=run.rollout.has_image),
        shape=latent_shape(data, run.frames),
        seed=evaluation.seed,
        batch_size=evaluation.batch_size,
        device=device,
        precision=run.precision,
    )


def test_reference(bench: Bench, clips: Path, data: Path) -> tuple[ClipSet, list[str]]:
    """All test clips, as long as the samples that are compared with them, measured; and their captions."""
    count = count_samples(clips / "test")
    stored = measure_stored(
        bench.evaluators,
        clips / "test",
        range(count),
        change=beginning(bench.frames),
        title="test clips",
        silent=bench.silent,
    )
    digits = bench.evaluators.geometry.has_digits
    text = None if digits else pooled_texts([sample["text"] for sample in iter_samples(data / "test", stop=count)])
    clip_set = ClipSet(measured=stored.measured, prompts=np.arange(count), attributes=stored.attributes, text=text)
    return clip_set, stored.captions


def real_outcomes(bench: Bench, clips: Path) -> Iterator[tuple[str, str, Outcome]]:
    """The floor and the codec's ceiling: training clips that match the prompts' captions, as they are and through the
    VAE.

    A perfect generator cannot be told from such clips; one behind this VAE cannot beat the second.
    """
    available = stored_attributes(clips / "train", CANDIDATES_PER_CLIP * len(bench.prompts))
    numbers = matching_clips(bench.prompts.attributes, available)
    cut = beginning(bench.frames)
    changes: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = [
        ("real", "Real clips", cut),
        ("codec", "Real clips through the VAE", lambda video: bench.through_codec(cut(video))),
    ]
    for name, label, change in changes:
        stored = measure_stored(
            bench.evaluators, clips / "train", numbers, change=change, show=SHOWN, title=label, silent=bench.silent
        )
        shown = ClipSet(measured=stored.measured, prompts=bench.prompts.prompts, attributes=stored.attributes)
        yield name, label, Outcome(clips=shown, shown=stored.shown)


def build_long_bench(
    bench: Bench, run: RunConfig, clips: int, reference: tuple[ClipSet, list[str]], encoders: Path
) -> LongBench | None:
    """The bench of a run's long clips, or None where it has none; the first `clips` test prompts are continued, of
    those that the run is about (`captions_with`). Real clips are chosen alike.

    Captions with attributes are switched in the middle: their object is to turn by a quarter.
    """
    frames = long_frames(run)
    if frames is None:
        return None
    shown = containing(bench.prompts.captions, run.captions_with)[:clips]
    bench = evolve(bench, prompts=bench.prompts.select(shown))
    real, captions = reference
    real = real.select(np.array(containing(captions, run.captions_with)))
    temporal = factors(bench.vae)[1]
    spans = segment_spans(frames, run.frames, temporal)
    switched = switched_prompts(bench.prompts, encoders) if bench.evaluators.geometry.has_digits else None
    references = segment_references(bench.evaluators, real, spans)
    return LongBench(bench=bench, frames=frames, references=references, switched=switched)


def switched_prompts(prompts: PromptSet, encoders: Path) -> PromptSet:
    """The prompts that moving digits go on with after their prompt switch."""
    encoder = load_text_encoder(encoders / "text_encoder", encoders / "tokenizer", max_length=prompts.text_length)
    attributes = [turned(a) for a in prompts.attributes]
    captions = [Attributes(**a).caption for a in attributes]
    text = [encode_prompt(encoder, caption).vectors.half().numpy() for caption in captions]
    return evolve(prompts, attributes=attributes, captions=captions, text=text)


def long_floor(long: LongBench, clips: Path) -> Segmented | None:
    """The segments of real clips: training clips that match the prompts' captions, continued. None where the source
    cannot be continued.
    """
    evaluators, prompts = long.bench.evaluators, long.bench.prompts
    if not evaluators.geometry.has_digits:
        return None
    available = stored_attributes(clips / "train", CANDIDATES_PER_CLIP * len(prompts))
    chosen = [available[i] for i in matching_clips(prompts.attributes, available)]
    sets = [
        ClipSet(measured=continued(evaluators, chosen, span), prompts=prompts.prompts, attributes=chosen)
        for span in long.spans
    ]
    return Segmented(spans=long.spans, clips=sets, references=list(long.references))


def encoding_seconds(bench: Bench, encoders: Path) -> dict[str, float]:
    """Seconds to encode one prompt (`text`) and one image (`image`, where there are images), measured on the first
    prompts after one to warm up.
    """
    encoder = load_text_encoder(encoders / "text_encoder", encoders / "tokenizer", max_length=bench.prompts.text_length)
    captions = bench.prompts.captions[:TIMED_PROMPTS]
    seconds = {"text": _seconds_each(lambda caption: encode_prompt(encoder, caption), captions)}
    if bench.prompts.first_frames is not None:
        tower = load_image_encoder(encoders / "image_encoder", encoders / "image_processor")
        images = [torch.from_numpy(np.array(image[None])) for image in bench.prompts.first_frames[:TIMED_PROMPTS]]
        frames = bench.shape[1]
        seconds["image"] = _seconds_each(lambda image: image_condition(bench.vae, tower, image, frames), images)
    return seconds


def _seconds_each(call: Callable[[Any], Any], inputs: list[Any]) -> float:
    call(inputs[0])
    begun = time.perf_counter()
    for value in inputs:
        call(value)
    return (time.perf_counter() - begun) / len(inputs)


def protocol(bench: Bench, params: Params, root: Path, data: str, reference: ClipSet) -> dict[str, Any]:
    """What must be equal for two cards to be compared; with an image, also which images were given."""
    preset = params.preset
    digits = bench.evaluators.geometry.has_digits
    encoded = read_fingerprint(root / data)
    images = bench.prompts.first_frames
    given = {} if images is None else {"image": {"given": "first frames of the prompts' own clips"} | _sums(images)}
    return {
        "preset": params.preset_name,
        "prompts_sha256": bench.prompts.sha256,
        "vae_sha256": encoded["vae"],
        "clips_sha256": encoded["clips"],
        "split": "test",
        "clips": len(bench.prompts),
        "different_prompts": int(bench.prompts.prompts.max()) + 1,
        "reference_clips": len(reference),
        "repeats": preset.evaluation.repeats,
        "seed": bench.seed,
        "batch_size": bench.batch_size,
        "frames": bench.frames,
        "size": [preset.data.height, preset.data.width],
        "precision": bench.precision,
        "evaluators_sha256": evaluators_digest(root / "checkpoints" / "evaluators"),
        "features": "video network and digit network" if digits else "video network only: the clips have no digits",
        "absent": []
        if digits
        else "caption accuracies, identity, image_identity, rigid_error: the captions have no attributes to check",
        "interval": "95 % over clips: bootstrap for means, grouped jackknife for distances between sets",
        **given,
    }


def _sums(images: list[np.ndarray]) -> dict[str, str]:
    """Identity of the given images, their order included."""
    return {"sha256": digest([hashlib.sha256(image.tobytes()).hexdigest() for image in images])}


def evaluate(target: str, root: Path = Path(".")) -> dict[str, Any]:
    """Evaluate every model of a target, or of an ad hoc run; write its card, its clips and, apart from them, the times.
    Returns the card.

    Raises HarnessError when something is missing, or when a teacher misses its gate; the card is then already written.
    """
    found = find_run(target, root)
    target, run, results = found.name, found.config, root / found.evaluation
    params = load_params(root / "params.yaml", run.preset)
    torch.set_num_threads(run.threads)
    evaluation, clips = params.preset.evaluation, (root / run.data).parent / "clips"
    check_backend(run.attention_backend, precision=run.precision, training=False)
    for folder in (root / run.data, clips):
        verify_shards(folder / "test")
    bench = build_bench(run, params, load_evaluators(root / "checkpoints" / "evaluators"), root)
    wanted = entries(root / found.checkpoints, run, evaluation)
    models = {entry.name: load_model(entry.folder) for entry in wanted}  # a missing one is told before the work begins
    for model in models.values():
        set_backend(model, run.attention_backend)
    reference, captions = test_reference(bench, clips, root / run.data)
    made_by = protocol(bench, params, root, run.data, reference)
    own = None if run.method == "sft" else teacher_metrics(run, root / "results", made_by)  # so is damage
    encoding = encoding_seconds(bench, root / "checkpoints" / "encoders")
    blocks: dict[str, Any] = {}
    times: dict[str, Any] = {}
    shown: dict[str, list[np.ndarray]] = {}
    if run.method == "sft":
        for name, label, outcome in real_outcomes(bench, clips):
            blocks[name] = model_block(label, [outcome], reference)
            shown[name] = outcome.shown
    long = build_long_bench(bench, run, evaluation.long_clips, (reference, captions), root / "checkpoints" / "encoders")
    floor = None if long is None else long_floor(long, clips)
    shown_long: dict[str, list[np.ndarray]] = {}
    for entry in wanted:
        model = models.pop(entry.name)
        outcomes = sample_repeats(bench, model, entry, evaluation.repeats)
        blocks[entry.name] = model_block(entry.label, outcomes, reference, entry.sampler)
        times[entry.name] = timing_block(outcomes, encoding)
        shown[entry.name] = outcomes[0].shown
        if long is not None:
            outcome = long.run(model, run.rollout, entry.label)
            add_long(blocks[entry.name], outcome, floor)
            shown_long[entry.name] = outcome.shown
    if run.method == "sft":
        own = blocks["teacher"]["metrics"]
    if own is not None:
        add_against_teacher(blocks, own)
    card = {
        "schema": SCHEMA,
        "target": target,
        "protocol": made_by,
        "prompts": bench.prompts.captions[:SHOWN],
        "models": blocks,
    }
    if found.fingerprint is not None:  # nothing else says whose card it is once another run has taken the name
        card["run"] = found.fingerprint
    device = torch.cuda.get_device_name() if bench.device.type == "cuda" else processor_name()
    timing = {"schema": SCHEMA, "target": target, "device": device, "threads": run.threads, "models": times}
    write_json(results / "timing.json", timing)
    given = (bench.prompts.first_frames or [])[:SHOWN]
    path = write_card(results, card, shown, params.preset.data.fps, given, shown_long)
    if run.method == "sft":
        check_gate(blocks["teacher"], evaluation.gate, path)
    return card


def sample_repeats(bench: Bench, model: nn.Module, entry: Entry, repeats: int) -> list[Outcome]:
    """Sample a model with each of the independent noise sets."""
    model = model.to(bench.device)
    return [bench.run(model, entry.sampler, entry.label, repeat) for repeat in range(repeats)]


def write_card(
    folder: Path,
    card: dict[str, Any],
    shown: dict[str, list[np.ndarray]],
    fps: float,
    given: list[np.ndarray],
    shown_long: dict[str, list[np.ndarray]],
) -> Path:
    """Write clips and the images that they were given first, and the card that names them last (`given`: the images, in
    the order of `prompts`; `long.clips_files`: the long clips); clips of an earlier card are removed.
    """
    shutil.rmtree(folder / "clips", ignore_errors=True)
    for name, videos in shown.items():
        card["models"][name]["clips"] = write_clips(folder, name, videos, fps)
    for name, videos in shown_long.items():
        card["models"][name]["long"]["clips_files"] = write_clips(folder, f"{name}_long", videos, fps)
    if given:
        card["given"] = write_given(folder, given)
    write_json(folder / "cards.json", card)
    return folder / "cards.json"


def main(target: str) -> int:
    """The verb `evaluate`."""
    card = evaluate(target)
    publish(lambda: evaluate_request(target, Path(".")), Path("."))
    for name, block in card["models"].items():
        values = ", ".join(f"{metric} {estimate['value']:.3g}" for metric, estimate in block["metrics"].items())
        print(f"{name}: {values}")
    print(evaluation_folder(run_name(target, Path("."))) / "cards.json")
    return 0
