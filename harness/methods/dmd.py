"""Distribution matching distillation of a few-step generator.

Sources: DMD (arXiv 2311.18828), DMD2 (2405.14867), Self-Forcing (2506.08009).
The generator rolls out a clip from noise. It descends the difference between two scores at a random noise level: that
of the critic, which learns the generator's own distribution, and that of the frozen, guided teacher.

In image to video critic and teacher are told the image by tokens and `y`, and see the whole clip. The generator is told
by what it reads (`condition_for`), or is given the first frame, which is then no part of its loss.

In long tuning an update goes on with a sequence, instead of making a clip of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from composer.models import ComposerModel
from torch import Tensor, nn

from harness.config.schema import DMDConfig, RolloutConfig
from harness.diffusion.distribution_matching import dmd_gradient, dmd_loss, score_timesteps
from harness.diffusion.flow import add_noise, velocity_target, velocity_to_x0
from harness.diffusion.schedule import TIMESTEPS
from harness.errors import HarnessError
from harness.methods.draws import Draws
from harness.methods.groups import optimizer_group
from harness.methods.long_sequence import Clip, LongSequence
from harness.models.condition import Condition
from harness.models.denoiser import condition_for, predict_velocity
from harness.rollout.causal import first_gradient_frame
from harness.rollout.few_step import draw_exit_steps, num_blocks, rollout
from harness.rollout.guided import guided_velocity, with_unconditional
from harness.rollout.together import Start, rollouts_together


class Sample(TypedDict):
    """What a rollout for a critic update has given."""

    x: Tensor  # [B, C, F, H, W]
    exit_steps: list[int]
    rng: Tensor  # state of the update's local generator after the rollout


class DMD(ComposerModel):
    """Alternating updates: `phase` says whether generator or critic has its turn; the other one gets no gradient."""

    draws: Draws  # set before each forward pass
    phase: Literal["generator", "critic"]
    # Rollouts ahead of their turn, set before each forward pass (`harness.algorithms.rollouts_ahead`):
    upcoming: Sequence[tuple[Tensor, Condition, Draws]]  # of the next critic updates, as `critic_step` will be given
    made: list[Sample]  # for this critic update and those after it
    # Of this forward pass's samples, set before it in long tuning (`harness.algorithms.long_tuning`):
    sequence: LongSequence | None

    def __init__(
        self, generator: nn.Module, critic: nn.Module, teacher: nn.Module, config: DMDConfig, rollout: RolloutConfig
    ) -> None:
        """Freeze the teacher. Raises HarnessError if the range of score timesteps is empty."""
        super().__init__()
        if config.min_t > config.max_t:
            raise HarnessError(
                f"dmd.min_t: {config.min_t} is above dmd.max_t: {config.max_t}; it must not be. Lower min_t."
            )
        self.generator = generator
        self.critic = critic
        self.teacher = teacher.requires_grad_(False).eval()
        self.config = config
        self.rollout_config = rollout
        self.phase = "generator"
        self.upcoming = ()
        self.made = []
        self.sequence = None

    def train(self, mode: bool = True) -> DMD:
        """Switch generator and critic between training and evaluation; the teacher always evaluates."""
        super().train(mode)
        self.teacher.eval()
        return self

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks by their role."""
        return {"generator": self.generator, "critic": self.critic, "teacher": self.teacher}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the optimizer's groups, generator then critic, each with its own settings; the teacher is in none."""
        return [
            optimizer_group("generator", self.generator, self.config.generator_optimizer),
            optimizer_group("critic", self.critic, self.config.critic_optimizer),
        ]

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Give the loss of the network whose turn it is: `{"loss": scalar, "metrics": {name: scalar}}`.

        The batch gives the condition, and the shape of a clip; its pixels are not looked at.
        """
        step = self.generator_step if self.phase == "generator" else self.critic_step
        return step(batch["latent"], batch["condition"])

    def generate(self, like: Tensor, condition: Condition) -> tuple[Tensor, list[int]]:
        """Roll out a clip of the shape of `like` `[B, C, F, H, W]`; also give the exit steps, equal on all ranks."""
        exit_steps = draw_exit_steps(
            self.rollout_config, num_blocks(self.rollout_config, like.shape[2]), self.draws.shared
        )
        noise = self.draws.noise_like(like)
        condition = condition_for(self.generator, condition)
        x = rollout(self.generator, noise, condition, self.rollout_config, self.draws.local, exit_steps)
        return x, exit_steps

    def generator_clip(self, like: Tensor, condition: Condition) -> Clip:
        """Give the clip of this generator update: one of its own, or the end of its sequence."""
        if self.sequence is not None:
            return self.sequence.extend(self.generator, like, condition, self.draws)
        x, exit_steps = self.generate(like, condition)
        new_from = int(self.rollout_config.first_frame_given)
        causal = self.rollout_config.attention == "causal"
        gradient_from = first_gradient_frame(x.shape[2], self.rollout_config) if causal else new_from
        return Clip(x=x, condition=condition, exit_steps=exit_steps, new_from=new_from, gradient_from=gradient_from)

    def critic_clip(self, like: Tensor, condition: Condition) -> Clip:
        """Give the clip of this critic update, on the device of `like`."""
        if self.sequence is not None:
            return self.sequence.extend(self.generator, like, condition, self.draws)
        sample = self.critic_sample(like, condition)
        x = sample["x"].to(like.device)
        return Clip(x=x, condition=condition, exit_steps=sample["exit_steps"], new_from=0, gradient_from=0)

    def critic_sample(self, like: Tensor, condition: Condition) -> Sample:
        """Give the sample of this critic update, and leave `draws` as after its rollout.

        If it was not made before, its rollout and those of the upcoming updates run as one batch. Each takes the draws
        of its own place, so that it does not matter when it was made.
        """
        if not self.made:
            self.made += self.make_samples([(like, condition, self.draws), *self.upcoming])
        sample = self.made.pop(0)
        self.draws.local.set_state(sample["rng"])
        return sample

    def make_samples(self, turns: Sequence[tuple[Tensor, Condition, Draws]]) -> list[Sample]:
        """Roll out clips of the shapes of the given ones, all together, without gradient."""
        blocks = num_blocks(self.rollout_config, turns[0][0].shape[2])
        exits = [draw_exit_steps(self.rollout_config, blocks, draws.shared) for _, _, draws in turns]
        starts = [
            Start(draws.noise_like(like), condition_for(self.generator, condition), exit_steps, draws.local)
            for (like, condition, draws), exit_steps in zip(turns, exits, strict=True)
        ]
        clips = rollouts_together(self.generator, starts, self.rollout_config)
        return [
            Sample(x=x, exit_steps=exit_steps, rng=draws.local.get_state())
            for x, exit_steps, (_, _, draws) in zip(clips, exits, turns, strict=True)
        ]

    def renoise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise a clip to a random score timestep, one per sample: `x_t`, `t` `[B]` and the noise."""
        u = self.draws.integers(TIMESTEPS, x.shape[0])
        t = score_timesteps(u, self.config.shift, self.config.min_t, self.config.max_t).to(x.device)
        noise = self.draws.noise_like(x)
        return add_noise(x, noise, t / TIMESTEPS), t, noise

    def generator_step(self, like: Tensor, condition: Condition) -> dict[str, Any]:
        """Give the generator's loss, whose gradient is the difference of the scores (DMD eq. 7), and what to watch."""
        clip = self.generator_clip(like, condition)
        x, condition, first = clip.x, clip.condition, clip.new_from
        config, frames_per_block = self.config, self.rollout_config.frames_per_block
        with torch.no_grad():
            x_t, t, _ = self.renoise(x)
            fake = velocity_to_x0(predict_velocity(self.critic, x_t, t, condition), x_t, t / TIMESTEPS)
            both = with_unconditional(condition, config.cfg_scale)
            real = velocity_to_x0(guided_velocity(self.teacher, x_t, t, both, config.cfg_scale), x_t, t / TIMESTEPS)
            x_made, fake, real = (frames[:, :, first:] for frames in (x, fake, real))
            grad = dmd_gradient(x_made, fake, real, config.normalize_gradient, frames_per_block)
            teacher_distance = (x_made - real).abs().mean()
            metrics = {
                "dmd_gradient_norm": grad.flatten(1).norm(dim=1).mean(),  # of a sample
                "teacher_distance": teacher_distance,  # mean |x − real|: falls as the samples become the teacher's
                "critic_lag": (x_made - fake).abs().mean()
                / teacher_distance,  # above 1, the critic knows the samples less well
                "sample_std": x_made.std(),
                **self._watched(clip),
            }
        start = clip.gradient_from
        return {"loss": dmd_loss(x[:, :, start:], grad[:, :, start - first :]), "metrics": metrics}

    def critic_step(self, like: Tensor, condition: Condition) -> dict[str, Any]:
        """Give the critic's loss, `mean((v̂ − (noise − x))²)`: flow matching on the generator's samples (DMD eq. 6).

        Over all frames, a given first one too: it is part of the clips whose score the critic learns.
        """
        with torch.no_grad():
            clip = self.critic_clip(like, condition)
            x = clip.x
            x_t, t, noise = self.renoise(x)
        velocity = predict_velocity(self.critic, x_t, t, clip.condition)
        loss = (velocity.float() - velocity_target(x, noise).float()).square().mean()
        metrics = {
            "critic_loss": loss.detach(),
            "sample_std": x.std(),
            **self._watched(clip),
        }
        return {"loss": loss, "metrics": metrics}

    def _watched(self, clip: Clip) -> dict[str, Tensor]:
        """Of how a clip was made: the mean exit step, and how long its sequence is by now."""
        values = {"exit_step": torch.tensor(sum(clip.exit_steps) / len(clip.exit_steps))}
        if self.sequence is not None:
            values["sequence_frames"] = torch.tensor(float(self.sequence.made))
        return values

    def loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> Tensor:
        """Give the loss that `forward` computed."""
        return outputs["loss"]

    def eval_forward(self, batch: dict[str, Any], outputs: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give the same outputs as `forward`; quality is measured on samples, by callbacks and the evaluation."""
        return self(batch) if outputs is None else outputs

    def get_metrics(self, is_train: bool) -> dict[str, Any]:
        """Name no Composer metrics."""
        return {}

    def update_metric(self, batch: Any, outputs: Any, metric: Any) -> None:
        """Do nothing: there are no Composer metrics."""
