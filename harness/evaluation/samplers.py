"""How a model is sampled for the card, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from harness.config.schema import RolloutConfig, RunConfig
from harness.models.condition import Condition
from harness.rollout.euler import causal_euler_sample, euler_sample
from harness.rollout.few_step import rollout


@frozen(kw_only=True)
class Sampler:
    """`few_step`: predict and renoise along `rollout.denoising_steps`. `euler`: the ODE, bidirectional. `causal_euler`:
    the ODE block by block.
    """

    kind: Literal["few_step", "euler", "causal_euler"]
    rollout: RolloutConfig
    steps: int = field()
    cfg_scale: float = 1.0

    @classmethod
    def few_step(cls, rollout: RolloutConfig) -> Sampler:
        """The student's own sampler."""
        return cls(kind="few_step", rollout=rollout, steps=len(rollout.denoising_steps))

    @property
    def causal(self) -> bool:
        """Whether clips are made block by block."""
        return self.kind == "causal_euler" or (self.kind == "few_step" and self.rollout.attention == "causal")

    @property
    def forwards(self) -> int:
        """Denoiser evaluations for each frame; guidance takes two per step. Writing the cache is not counted here."""
        return self.steps * (2 if self.cfg_scale != 1.0 else 1)

    def describe(self) -> dict:
        """For the card."""
        unit = "forwards_per_block" if self.causal else "forwards_per_video"
        described = {"kind": self.kind, "steps": self.steps, "cfg_scale": self.cfg_scale, "shift": self.rollout.shift}
        described |= {unit: self.forwards, "forwards": self.forwards}
        if self.causal:
            described |= {
                "frames_per_block": self.rollout.frames_per_block,
                "window": self.rollout.window,
                "sink": self.rollout.sink,
            }
        if self.rollout.has_image:
            described["image_conditioning"] = self.rollout.image_conditioning
        if self.kind == "few_step":
            described["denoising_steps"] = list(self.rollout.denoising_steps)
        return described

    def __call__(self, model: nn.Module, noise: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
        """Noise `[B, C, F, H, W]` → latents of the same shape, no gradient. `rng` (CPU) is for few-step renoising."""
        with torch.no_grad():
            if self.kind == "few_step":
                return rollout(model, noise, condition, self.rollout, rng)
            if self.kind == "euler":
                return euler_sample(
                    model,
                    noise,
                    condition,
                    steps=self.steps,
                    shift=self.rollout.shift,
                    cfg_scale=self.cfg_scale,
                    first_frame_given=self.rollout.first_frame_given,
                )
            return causal_euler_sample(
                model, noise, condition, self.rollout, steps=self.steps, cfg_scale=self.cfg_scale
            )


def rollout_of(run: RunConfig) -> RolloutConfig:
    """How a run's generator makes clips: causal SFT makes it causal, whatever the students of the preset are."""
    return evolve(run.rollout, attention="causal") if run.method == "causal_sft" else run.rollout


def cut_steps(forwards: int) -> int:
    """Guided steps that fit in `forwards` denoiser evaluations: half as many, at least one."""
    return max(1, forwards // 2)


@frozen
class Cost:
    """Work of sampling some clips. `forwards` counts whole clips: one evaluation of a third of a clip's frames is a
    third.
    """

    clips: int = 0
    forwards: float = 0.0
    text_seconds: float = 0.0
    denoiser_seconds: float = 0.0
    vae_seconds: float = 0.0


class ForwardCounter:
    """Counts denoiser evaluations by a hook on the model: rows × the share of the clip's frames, whatever the sampler
    claims.
    """

    def __init__(self, frames: int):
        self.frames = frames
        self.total = 0.0

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[ForwardCounter]:
        """While the context is open, calls of `model` count."""
        handle = model.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            yield self
        finally:
            handle.remove()

    def _count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self.total += x.shape[0] * x.shape[2] / self.frames


class Stopwatch:
    """Seconds spent inside; waits for the accelerator on both ends."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._wait()
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._begun

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
