"""Supervised fine-tuning of a causal model by flow matching with a block-causal mask.

Each block of frames has a timestep of its own. With teacher forcing the model reads `[clean ‖ noisy]` and a noisy
block sees the clean blocks before it, as it will see its own finished blocks when it samples (CausVid's successors,
arXiv 2602.02214); with diffusion forcing (2407.01392) it sees the noisy ones. Where the first frame is given (image to
video) it is a block of its own, clean, at t = 0, and no part of the loss.
"""

from __future__ import annotations

from typing import Any

from composer.models import ComposerModel
from torch import Tensor, nn

from harness.config.schema import CausalSFTConfig
from harness.diffusion.flow import add_noise, velocity_target
from harness.diffusion.schedule import TIMESTEPS
from harness.methods.draws import Draws
from harness.methods.flow_matching import after_clean_first, drop_captions, flow_matching_loss, table_levels
from harness.methods.groups import optimizer_group
from harness.models.denoiser import condition_for, predict_velocity


def rows_per_block(batch_size: int, frames: int, frames_per_block: int, draws: Draws) -> Tensor:
    """Draw a row of the training table for each block, shared by its frames: int64 `[B, F]`."""
    blocks = -(-frames // frames_per_block)
    rows = draws.integers(TIMESTEPS, batch_size, blocks)
    return rows.repeat_interleave(frames_per_block, dim=1)[:, :frames]


class CausalSFT(ComposerModel):
    """Flow matching with attention that is causal by blocks of `frames_per_block` latent frames."""

    draws: Draws  # set before each forward pass

    def __init__(
        self,
        generator: nn.Module,
        config: CausalSFTConfig,
        frames_per_block: int,
        *,
        first_frame_given: bool = False,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.config = config
        self.frames_per_block = frames_per_block
        self.first_frame_given = first_frame_given

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks by their role."""
        return {"generator": self.generator}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the optimizer's groups, each with its own settings."""
        return [optimizer_group("generator", self.generator, self.config.optimizer)]

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Give the loss of one batch: `{"loss": scalar, "metrics": {name: scalar}}`."""
        x0: Tensor = batch["latent"]  # [B, C, F, H, W]
        first = int(self.first_frame_given)
        rows = rows_per_block(x0.shape[0], x0.shape[2] - first, self.frames_per_block, self.draws)
        noise = self.draws.noise_like(x0)
        condition = drop_captions(batch["condition"], self.config.caption_dropout, self.draws)
        condition = condition_for(self.generator, condition)
        sigma, weight = (level.to(x0.device) for level in table_levels(rows, self.config))  # [B, F − first]
        if first:
            sigma = after_clean_first(sigma, x0.shape[2])
        velocity = predict_velocity(
            self.generator,
            add_noise(x0, noise, sigma),
            TIMESTEPS * sigma,
            condition,
            frames_per_block=(first, self.frames_per_block) if first else self.frames_per_block,
            clean=x0 if self.config.context == "teacher_forcing" else None,
        )
        loss, error = flow_matching_loss(velocity[:, :, first:], velocity_target(x0, noise)[:, :, first:], weight)
        return {"loss": loss, "metrics": {"velocity_error": error}}

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
