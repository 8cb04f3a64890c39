"""The bench: what every model of a card is measured with. Fixed prompts, fixed noise, evaluators, VAE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor, nn

from harness.data.progress import Progress
from harness.evaluation.evaluators import Evaluators, Measurements
from harness.evaluation.panel import ClipSet
from harness.evaluation.prompts import PromptSet, fixed_noise
from harness.evaluation.samplers import Cost, ForwardCounter, Sampler, Stopwatch
from harness.evaluation.segments import pixel_frames
from harness.models.codec import VAE, decode_latents, encode_video, from_pixels, to_pixels
from harness.models.denoiser import condition_for
from harness.models.reference_latent import factors
from harness.seeding import generator_for

SHOWN = 6  # clips of each model that are kept for people to see


@frozen(kw_only=True, eq=False)
class Outcome:
    """What a model made: measured, the first clips as uint8 `[F, H, W, 3]`, and what it cost."""

    clips: ClipSet
    shown: list[np.ndarray]
    cost: Cost = field(factory=Cost)


@frozen(kw_only=True, eq=False)
class Bench:
    """`shape` is one clip's latent `(C, F, h, w)`; `precision` is that of the denoiser."""

    evaluators: Evaluators
    vae: VAE
    prompts: PromptSet
    shape: tuple[int, int, int, int]
    seed: int
    batch_size: int
    device: torch.device
    precision: str = "fp32"
    silent: bool = False

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return pixel_frames(self.shape[1], factors(self.vae)[1])

    def clip_set(self, measured: Measurements) -> ClipSet:
        """Measured clips of the fixed prompts, in order."""
        p = self.prompts
        return ClipSet(measured=measured, prompts=p.prompts, attributes=p.attributes, text=p.pooled_text)

    def autocast(self) -> AbstractContextManager[object]:
        """The denoiser's precision, without a second, bf16 copy of all weights."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        return nullcontext()

    def latents(
        self, model: nn.Module, sampler: Sampler, repeat: int, watch: Stopwatch
    ) -> Iterator[tuple[int, Tensor]]:
        """Latents of all fixed prompts, batch by batch: (index of the first clip, `[B, C, F, h, w]`)."""
        for start in range(0, len(self.prompts), self.batch_size):
            stop = min(start + self.batch_size, len(self.prompts))
            noise = fixed_noise(self.seed, range(start, stop), self.shape, repeat).to(self.device)
            condition = condition_for(model, self.prompts.condition(start, stop)).to(self.device)
            rng = generator_for(self.seed, "renoise", repeat, start)
            with watch, self.autocast():
                latents = sampler(model, noise, condition, rng)
            yield start, latents.float()

    def measure(self, start: int, video: Tensor) -> Measurements:
        """What is seen in clips `[B, 3, F, H, W]` in [−1, 1] of the prompts from `start` on, against the images that
        they were given.
        """
        images = self.prompts.first_frames
        return self.evaluators.measure(video, None if images is None else np.stack(images[start : start + len(video)]))

    def run(self, model: nn.Module, sampler: Sampler, title: str, repeat: int = 0) -> Outcome:
        """Sample, decode and measure all fixed prompts."""
        model.eval()
        denoiser, vae, parts, shown = Stopwatch(self.device), Stopwatch(self.device), [], []
        progress = Progress(title, len(self.prompts), silent=self.silent)
        with ForwardCounter(self.shape[1]).counting(model) as counter:
            for start, latents in self.latents(model, sampler, repeat, denoiser):
                with vae:
                    video = decode_latents(self.vae, latents)
                parts.append(self.measure(start, video))
                shown += list(to_pixels(video[: SHOWN - len(shown)]))
                progress.advance(len(video))
        cost = Cost(
            clips=len(self.prompts),
            forwards=counter.total,
            denoiser_seconds=denoiser.seconds,
            vae_seconds=vae.seconds,
        )
        return Outcome(clips=self.clip_set(Measurements.cat(parts)), shown=shown, cost=cost)

    def through_codec(self, video: np.ndarray) -> np.ndarray:
        """Encode and decode one clip, uint8 `[F, H, W, 3]`."""
        latents = encode_video(self.vae, from_pixels(np.array(video[None])).to(self.device))
        return to_pixels(decode_latents(self.vae, latents))[0]
