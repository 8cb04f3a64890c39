"""Clips much longer than those of training, made block by block and measured segment by segment as they are made.

Memory is bounded: of a batch's pixels no more than one segment is held, besides the clips that people see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from harness.config.schema import RolloutConfig, RunConfig
from harness.data.digits import ANY_DIRECTION
from harness.data.progress import Progress
from harness.evaluation.bench import Bench
from harness.evaluation.evaluators import Measurements
from harness.evaluation.panel import ClipSet
from harness.evaluation.prompts import PromptSet, long_noise
from harness.evaluation.segments import Segmented, Span, cut, pixel_frames, segment_spans
from harness.evaluation.switching import AROUND, Switched
from harness.models.codec import to_pixels
from harness.models.condition import Condition
from harness.models.denoiser import condition_for
from harness.models.frame_decoder import FrameDecoder
from harness.models.reference_latent import factors
from harness.rollout.causal import generated_spans
from harness.rollout.stream import Stream
from harness.seeding import generator_for

LONG_SHOWN = 3  # clips that are kept for people to see, whole
MIB = 2.0**20


def long_frames(run: RunConfig) -> int | None:
    """Latent frames of a run's long clips; None where it has none: only causal students with a declared length do."""
    return run.evaluate_frames if run.method == "dmd" and run.rollout.attention == "causal" else None


@frozen(kw_only=True, eq=False)
class LongOutcome:
    """What a model made: clips of `frames` pixel frames in segments, over their prompt switch (None where that cannot
    be seen in any), MiB of keys and values per clip that each block saw, and the first clips as uint8 `[F, H, W, 3]`.
    """

    frames: int
    segments: Segmented
    switched: Switched | None
    cache_mib: list[float]
    shown: list[np.ndarray]


@frozen(eq=False)
class _Fork:
    """Clips at their prompt switch: the stream's state, and the latents until then."""

    state: dict
    latents: Tensor


@frozen(kw_only=True, eq=False)
class LongBench:
    """What every model's long clips are made and measured with.

    bench        of the prompts of the long clips; its shape is that of training's clips
    frames       latent frames of a long clip
    references   real clips at the place of each segment
    switched     the prompts that the clips go on with in their second half; None: they are not switched
    """

    bench: Bench
    frames: int
    references: Sequence[ClipSet]
    switched: PromptSet | None = None

    @property
    def temporal(self) -> int:
        """Pixel frames of a latent frame that is not the first."""
        return factors(self.bench.vae)[1]

    @property
    def spans(self) -> list[Span]:
        """The segments, in pixel frames."""
        return segment_spans(self.frames, self.bench.shape[1], self.temporal)

    def switch_at(self, config: RolloutConfig) -> int:
        """The latent frame that is the first under the new prompt: where the first block of the second half begins."""
        starts = [start for start, _ in generated_spans(self.frames, config)]
        return next((start for start in starts if start >= self.frames // 2), starts[-1])

    @torch.no_grad()
    def run(self, model: nn.Module, config: RolloutConfig, title: str) -> LongOutcome:
        """Make, decode and measure the long clips of all prompts, and their switched ends."""
        model.eval()
        bench, parts, over, shown, cache = self.bench, [], [], [], []
        progress = Progress(f"{title}, long", len(bench.prompts), silent=bench.silent)
        for first in range(0, len(bench.prompts), bench.batch_size):
            clips = range(first, min(first + bench.batch_size, len(bench.prompts)))
            batch = _Batch(self, model, config, clips)
            parts.append([bench.evaluators.measure(video) for video in cut(batch.frames(shown), self.spans)])
            if self.switched is not None and self.switch_at(config):
                over.append(batch.over_the_switch(self.switched))
            cache = batch.cache_mib
            progress.advance(len(clips))
        sets = [bench.clip_set(Measurements.cat(list(of_segment))) for of_segment in zip(*parts, strict=True)]
        return LongOutcome(
            frames=pixel_frames(self.frames, self.temporal),
            segments=Segmented(spans=self.spans, clips=sets, references=list(self.references)),
            switched=self._switched(over, config) if over else None,
            cache_mib=cache,
            shown=shown,
        )

    def before_switch(self, at: int) -> int:
        """Pixel frames before a switch at pixel frame `at` that are looked at, to see direction and handwriting."""
        return min(at, max(AROUND // 2, pixel_frames(self.bench.shape[1], self.temporal) // 4))

    def _switched(self, parts: list[Measurements], config: RolloutConfig) -> Switched | None:
        """Of the clips whose first prompt gives a direction: any other may show the new one without having turned."""
        if self.switched is None:
            return None
        measured, attributes = Measurements.cat(parts), self.bench.prompts.attributes
        told = [i for i, a in enumerate(attributes) if measured.digits is not None and a["direction"] != ANY_DIRECTION]
        digits = measured.select(np.array(told, dtype=int)).digits
        if digits is None or not told:
            return None
        at = pixel_frames(self.switch_at(config), self.temporal)
        wanted = [self.switched.attributes[i]["direction"] for i in told]
        return Switched(digits=digits, before=self.before_switch(at), wanted=wanted)


class _Batch:
    """The clips with some indices, made once, and once more from the switch on."""

    def __init__(self, long: LongBench, model: nn.Module, config: RolloutConfig, clips: range) -> None:
        self.long, self.bench, self.model, self.config, self.clips = long, long.bench, model, config, clips
        self.cache_mib: list[float] = []
        self._switch_at = long.switch_at(config)
        self._fork: _Fork | None = None

    def frames(self, shown: list[np.ndarray]) -> Iterator[Tensor]:
        """The clips' pixels `[B, 3, f, H, W]` in [−1, 1], a block at a time; the first ones go to `shown`, whole."""
        decoder, kept = FrameDecoder(self.bench.vae), []
        room = LONG_SHOWN - len(shown)
        for latents in self._blocks():
            video = decoder.decode(latents)
            kept.append(to_pixels(video[:room]))
            yield video
        shown += list(np.concatenate(kept, axis=1))

    def over_the_switch(self, prompts: PromptSet) -> Measurements:
        """Go on from the fork under new prompts, to the end; measured from a little before it. After `frames`."""
        assert self._fork is not None
        total = pixel_frames(self.long.frames, self.long.temporal)
        at = pixel_frames(self._switch_at, self.long.temporal)
        spans = [(at - self.long.before_switch(at), total)]
        decoder = FrameDecoder(self.bench.vae)
        video = (decoder.decode(latents) for latents in self._switched_blocks(prompts, self._fork))
        (over,) = cut(video, spans)
        return self.bench.evaluators.measure(over)

    def _blocks(self) -> Iterator[Tensor]:
        stream = Stream(self._condition(self.bench.prompts), self.config)
        rng = generator_for(self.bench.seed, "renoise", 0, self.clips.start)
        until_switch: list[Tensor] = []
        if self.config.first_frame_given:
            until_switch.append(stream.give_first(torch.empty(0, device=self.bench.device)).float())
            yield until_switch[-1]
        for start, end in generated_spans(self.long.frames, self.config):
            if start == self._switch_at and until_switch and self.long.switched is not None:
                self._fork = _Fork(stream.state_dict(), torch.cat(until_switch, dim=2))
            latents = self._make(stream, start, end, rng)
            self.cache_mib.append(stream.cache.num_bytes / len(self.clips) / MIB)
            if end <= self._switch_at:
                until_switch.append(latents)
            yield latents

    def _switched_blocks(self, prompts: PromptSet, fork: _Fork) -> Iterator[Tensor]:
        stream = Stream.from_state(fork.state, self.config, self.bench.device)
        rng = generator_for(self.bench.seed, "renoise", 0, self.clips.start, "switched")
        yield fork.latents
        with self.bench.autocast():
            stream.switch(self.model, self._condition(prompts), rng)
        for start, end in generated_spans(self.long.frames, self.config):
            if start >= self._switch_at:
                yield self._make(stream, start, end, rng)

    def _make(self, stream: Stream, start: int, end: int, rng: torch.Generator) -> Tensor:
        noise = long_noise(self.bench.seed, self.clips, self.bench.shape, start, end).to(self.bench.device)
        with self.bench.autocast():
            return stream.block(self.model, noise, rng).float()

    def _condition(self, prompts: PromptSet) -> Condition:
        condition = prompts.condition(self.clips.start, self.clips.stop)
        return condition_for(self.model, condition).to(self.bench.device)
