"""Quality during training: a few metrics on fixed validation prompts and fixed noise, cheap enough to run often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from attrs import evolve, frozen
from torch import nn

from harness.config.metrics import AGAINST_TEACHER, OF_IMAGES, OF_LONG_CLIPS
from harness.config.schema import RunConfig
from harness.data.digits import ANY_DIRECTION
from harness.data.mds import load_split
from harness.data.selection import containing
from harness.errors import HarnessError
from harness.evaluation.bench import Bench
from harness.evaluation.continued import segment_references
from harness.evaluation.evaluators import Evaluators, Measurements, load_evaluators
from harness.evaluation.long_clips import LongBench, long_frames
from harness.evaluation.own_teacher import teacher_motion
from harness.evaluation.panel import OF_SETS, SMALLEST_SET, ClipSet, measure_values
from harness.evaluation.prompts import PromptSet, fixed_prompts, latent_shape
from harness.evaluation.samplers import Sampler, Stopwatch, rollout_of
from harness.evaluation.segments import OF_LONG_SETS, pixel_frames, segment_spans
from harness.evaluation.stored import beginning, measure_stored, pooled_texts
from harness.models.codec import VAE, decode_latents, load_vae, to_pixels
from harness.models.reference_latent import factors
from harness.seeding import seed_for

MEASURED_LONG = tuple(name for name in OF_LONG_CLIPS if not name.startswith("switch_") and name != "long_cache")
OF_DIGITS = (
    "caption_accuracy", "digit_accuracy", "motion_accuracy", "identity", "rigid_error", "mode_coverage",
    "image_identity", "long_caption_accuracy", "long_motion_accuracy", "long_identity",
)  # fmt: skip
SFT_STEPS = 4  # of the ODE: few, because a monitor ranks checkpoints and is not the card
SFT_CFG_SCALE = 2.5
SHOWN = 4  # clips that are kept for people to see
LOGGED = (
    "fvd",
    "conditional_distance",
    "caption_accuracy",
    "digit_accuracy",
    "motion_accuracy",
    "recall",
    "precision",
    "identity",
    "rigid_error",
    "ink",
    "saturation",
    "motion_energy",
    "diversity",
    "mode_coverage",
    "first_frame_psnr",
    "first_frame_ssim",
    "image_identity",
    "late_motion",
    *MEASURED_LONG,
)


READ = ("caption", "latent", "attributes", "text")  # of the validation split


def sampler_for(run: RunConfig) -> Sampler:
    """How a model in training is sampled: a teacher by a short guided ODE, anything else by the student's own few
    steps.
    """
    if run.method == "sft":
        return Sampler(kind="euler", rollout=run.rollout, steps=SFT_STEPS, cfg_scale=SFT_CFG_SCALE)
    return Sampler.few_step(rollout_of(run))


@frozen(kw_only=True, eq=False)
class LongReference:
    """Long clips of `frames` latent frames are measured too, of the prompts with these numbers, against real clips at
    the place of each segment.
    """

    frames: int
    prompts: list[int]
    references: list[ClipSet]


class Monitor:
    """Call it with a generator to get its quality: metric name → value.

    It leaves the model as it was (mode, device, gradients) and draws nothing from the global random state, so that a
    monitored run and an unmonitored one train alike. The reference is the split's own source clips, as on the card: the
    best checkpoint is then chosen by the very distance that the card reports.
    """

    def __init__(
        self,
        *,
        evaluators: Evaluators,
        vae: VAE,
        prompts: PromptSet,
        reference: ClipSet,
        latent_mean: float,  # of real latents
        latent_std: float,
        teacher_motion: float | None = None,  # `late_motion` on the own teacher's card
        sampler: Sampler,
        shape: tuple[int, int, int, int],
        batch_size: int,
        precision: str = "fp32",
        long: LongReference | None = None,  # where long clips are measured too
    ):
        self.evaluators, self.vae, self.prompts, self.sampler, self.shape = evaluators, vae, prompts, sampler, shape
        self.batch_size, self.precision = batch_size, precision
        self.seed = seed_for(0, "monitor")
        self.shown = np.empty((0, 1, 1, 1, 3), np.uint8)  # first clips of the last call, `[N, F, H, W, 3]`
        self.reference, self.latent_mean, self.latent_std = reference, latent_mean, latent_std
        self.teacher_motion = teacher_motion
        self.long = long

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Sample every prompt once and measure."""
        device = next(model.parameters()).device
        bench = Bench(
            evaluators=self.evaluators,
            vae=self.vae.to(device),  # type: ignore[arg-type]
            prompts=self.prompts,
            shape=self.shape,
            seed=self.seed,
            batch_size=self.batch_size,
            device=device,
            precision=self.precision,
            silent=True,
        )
        training = model.training
        model.eval()
        try:
            measured, latents, shown = [], [], []
            for start, made in bench.latents(model, self.sampler, 0, Stopwatch(device)):
                _check_finite(made)
                latents.append(made.cpu())
                video = decode_latents(bench.vae, made)
                shown += list(to_pixels(video[: SHOWN - len(shown)]))
                measured.append(bench.measure(start, video))
            further = {} if self.long is None else self._long_values(bench, model, self.long)
        finally:
            model.train(training)
        self.shown = np.stack(shown)
        values = measure_values(bench.clip_set(Measurements.cat(measured)), self.reference) | further
        kept = {name: values[name] for name in LOGGED if name in values}
        if self.teacher_motion:
            kept["static_collapse"] = values["late_motion"] / self.teacher_motion
        sampled, spread = torch.cat(latents), max(self.latent_std, 1e-9)
        return kept | {
            "latent_mean_shift": (float(sampled.mean()) - self.latent_mean) / spread,  # in standard deviations
            "latent_std_ratio": float(sampled.std()) / spread,  # above 1: saturation
        }

    def _long_values(self, bench: Bench, model: nn.Module, long: LongReference) -> dict[str, float]:
        bench = evolve(bench, prompts=bench.prompts.select(long.prompts))
        made = LongBench(bench=bench, frames=long.frames, references=long.references)
        return made.run(model, self.sampler.rollout, "Monitor").segments.summary()


def _check_finite(latents: torch.Tensor) -> None:
    """Raise HarnessError for samples that no metric can be computed of."""
    if not bool(torch.isfinite(latents).all()):
        raise HarnessError(
            "the network samples values that are not finite: it has diverged, and the metrics so far are in "
            "quality.csv. Lower its learning rate or its clip_norm, or look there for where it began"
        )


def _check_metric(run: RunConfig, has_teacher: bool, has_digits: bool) -> None:
    """Raise HarnessError if `monitor.metric` is one that this run's clips do not have."""
    metric, why = run.monitor.metric, None
    if metric in OF_IMAGES and not run.rollout.has_image:
        why = "it is measured against a given image (rollout.image_conditioning)"
    elif metric == "fvd_gap":
        why = "it is known of finished runs only"
    elif metric not in (*LOGGED, *AGAINST_TEACHER):
        why = "it is measured by `python -m harness evaluate` only"
    elif metric in MEASURED_LONG and long_frames(run) is None:
        why = "it is measured on long clips: it takes a causal student and evaluate_frames"
    elif metric in OF_DIGITS and not has_digits:
        why = "it is read from digits, and these clips have none"
    elif metric == "static_collapse" and not has_teacher:
        why = f"there is no card of the teacher {run.teacher} to measure it against: run `python -m harness evaluate`"
    if why is not None:
        raise HarnessError(f"monitor.metric: {metric} cannot choose the best weights of this run: {why}; take fvd")


def _check_clips(run: RunConfig, prompts: PromptSet, captions: list[str], attributes: list[dict]) -> None:
    """Raise HarnessError if `monitor.metric` is measured on sets of clips, and the monitor's or the real ones, which
    are those of the validation split with these captions and attributes, are too few for it.
    """
    metric, about = run.monitor.metric, run.captions_with
    if metric not in (*OF_SETS, *OF_LONG_SETS):
        return
    made, real = _clips_for(run, prompts.captions, prompts.attributes), _clips_for(run, captions, attributes)
    if min(made, real) >= SMALLEST_SET:
        return
    kind, further = "clips", ""
    if metric in OF_LONG_SETS and about is not None:
        kind, further = f"clips with {about!r} in their caption", ", give other words in captions_with (null: all)"
    elif metric == "mode_coverage":
        kind, further = "clips whose caption leaves the direction open", ", raise data.open_directions"
    raise HarnessError(
        f"monitor.metric: {metric} is measured on sets of at least {SMALLEST_SET} {kind}. The monitor has {made} among "
        f"its {len(prompts)} (monitor.clips), the validation split {real} among {len(captions)} "
        f"(data.clips.validation); raise the one that is too small{further}, or take another metric"
    )


def _clips_for(run: RunConfig, captions: list[str], attributes: list[dict]) -> int:
    """How many clips with these captions and attributes `monitor.metric` is measured on."""
    if run.monitor.metric in OF_LONG_SETS:
        return sum(run.captions_with is None or run.captions_with in caption for caption in captions)
    if run.monitor.metric == "mode_coverage":
        return sum(a["direction"] == ANY_DIRECTION for a in attributes)
    return len(captions)


def build_monitor(
    run_config: RunConfig,
    *,
    data_folder: str | Path,
    evaluators_folder: str | Path,
    encoders_folder: str | Path,
) -> Monitor:
    """A monitor of `run_config.monitor.clips` validation prompts. Loads everything once; each call then only
    samples and measures.

    `data_folder` is the encoded data, beside the folder `clips` of what was encoded; `evaluators_folder` is
    `checkpoints/evaluators` of the project, whose `results` hold the teacher's card, if it has one. Raises HarnessError
    when something is missing, when the validation split has too few clips, or when the best weights are to be chosen by
    a metric that is not measured here, or not on so few clips.
    """
    data, results = Path(data_folder), Path(evaluators_folder).parents[1] / "results"
    image = run_config.rollout.has_image
    motion = teacher_motion(run_config, results)
    evaluators = load_evaluators(evaluators_folder)
    _check_metric(run_config, has_teacher=bool(motion), has_digits=evaluators.geometry.has_digits)
    prompts = fixed_prompts(data, "validation", run_config.monitor.clips, run_config.frames, image=image)
    stored = load_split(data / "validation", None, lambda sample: {name: sample[name] for name in READ})
    _check_clips(run_config, prompts, stored["caption"], stored["attributes"])
    count, vae = len(stored["latent"]), load_vae(Path(encoders_folder) / "vae")
    cut = beginning(pixel_frames(run_config.frames, factors(vae)[1]))
    reference = ClipSet(
        measured=measure_stored(evaluators, data.parent / "clips" / "validation", range(count), change=cut).measured,
        prompts=np.arange(count),
        attributes=stored["attributes"],
        text=None if evaluators.geometry.has_digits else pooled_texts(stored["text"]),
    )
    return Monitor(
        evaluators=evaluators,
        vae=vae,
        prompts=prompts,
        reference=reference,
        latent_mean=float(stored["latent"].astype(np.float32).mean()),
        latent_std=float(stored["latent"].astype(np.float32).std(ddof=1)),
        teacher_motion=motion,
        sampler=sampler_for(run_config),
        shape=latent_shape(data, run_config.frames),
        batch_size=run_config.monitor.batch_size,
        precision=run_config.precision,
        long=_long_reference(run_config, evaluators, vae, (reference, stored["caption"]), prompts),
    )


def _long_reference(
    run: RunConfig, evaluators: Evaluators, vae: VAE, reference: tuple[ClipSet, list[str]], prompts: PromptSet
) -> LongReference | None:
    """What long clips are measured against; None unless the best weights are chosen by them: they cost more than all
    the rest.
    """
    frames = long_frames(run)
    if frames is None or run.monitor.metric not in MEASURED_LONG:
        return None
    spans = segment_spans(frames, run.frames, factors(vae)[1])
    real, captions = reference
    real = real.select(np.array(containing(captions, run.captions_with)))
    shown = containing(prompts.captions, run.captions_with)
    return LongReference(frames=frames, prompts=shown, references=segment_references(evaluators, real, spans))
