"""Quality during training: a few metrics on fixed validation prompts and fixed noise, cheap enough to run often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.config.schema import RunConfig
from harness.data.mds import load_split
from harness.evaluation.bench import Bench
from harness.evaluation.evaluators import Evaluators, Measurements, load_evaluators
from harness.evaluation.panel import ClipSet, measure_values
from harness.evaluation.prompts import PromptSet, fixed_prompts, latent_shape
from harness.evaluation.samplers import Sampler, Stopwatch
from harness.evaluation.stored import measure_stored, pooled_texts
from harness.models.codec import VAE, decode_latents, load_vae, to_pixels
from harness.seeding import seed_for

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
)


def sampler_for(run: RunConfig) -> Sampler:
    """How a model in training is sampled: a teacher by a short guided ODE, anything else by the student's own few
    steps.
    """
    if run.method == "sft":
        return Sampler(kind="euler", rollout=run.rollout, steps=SFT_STEPS, cfg_scale=SFT_CFG_SCALE)
    return Sampler.few_step(run.rollout)


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
        sampler: Sampler,
        shape: tuple[int, int, int, int],
        batch_size: int,
        precision: str = "fp32",
    ):
        self.evaluators, self.vae, self.prompts, self.sampler, self.shape = evaluators, vae, prompts, sampler, shape
        self.batch_size, self.precision = batch_size, precision
        self.seed = seed_for(0, "monitor")
        self.shown = np.empty((0, 1, 1, 1, 3), np.uint8)  # first clips of the last call, `[N, F, H, W, 3]`
        self.reference, self.latent_mean, self.latent_std = reference, latent_mean, latent_std

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
            for _, made in bench.latents(model, self.sampler, 0, Stopwatch(device)):
                latents.append(made.cpu())
                video = decode_latents(bench.vae, made)
                shown += list(to_pixels(video[: SHOWN - len(shown)]))
                measured.append(self.evaluators.measure(video))
        finally:
            model.train(training)
        self.shown = np.stack(shown)
        values = measure_values(bench.clip_set(Measurements.cat(measured)), self.reference)
        kept = {name: values[name] for name in LOGGED if name in values}
        sampled, spread = torch.cat(latents), max(self.latent_std, 1e-9)
        return kept | {
            "latent_mean_shift": (float(sampled.mean()) - self.latent_mean) / spread,  # in standard deviations
            "latent_std_ratio": float(sampled.std()) / spread,  # above 1: saturation
        }


def build_monitor(
    run_config: RunConfig,
    *,
    data_folder: str | Path,
    evaluators_folder: str | Path,
    encoders_folder: str | Path,
) -> Monitor:
    """A monitor of `run_config.monitor.clips` validation prompts. Loads everything once; each call then only
    samples and measures.

    `data_folder` is the encoded data, beside the folder `clips` of what was encoded. Raises HarnessError when something
    is missing, or when the validation split has too few clips.
    """
    data = Path(data_folder)
    prompts = fixed_prompts(data, "validation", run_config.monitor.clips, run_config.frames)
    stored = load_split(data / "validation")
    evaluators = load_evaluators(evaluators_folder)
    count = len(stored["latent"])
    reference = ClipSet(
        measured=measure_stored(evaluators, data.parent / "clips" / "validation", range(count)).measured,
        prompts=np.arange(count),
        attributes=stored["attributes"],
        text=None if evaluators.geometry.has_digits else pooled_texts(stored["text"]),
    )
    return Monitor(
        evaluators=evaluators,
        vae=load_vae(Path(encoders_folder) / "vae"),
        prompts=prompts,
        reference=reference,
        latent_mean=float(stored["latent"].astype(np.float32).mean()),
        latent_std=float(stored["latent"].astype(np.float32).std(ddof=1)),
        sampler=sampler_for(run_config),
        shape=latent_shape(data, run_config.frames),
        batch_size=run_config.monitor.batch_size,
        precision=run_config.precision,
    )
