"""Supervised fine-tuning of a bidirectional model by flow matching on real clips (Wan, arXiv 2503.20314).

Where the first frame is given (image to video as in Wan2.2 TI2V), it is clean, at t = 0, and no part of the loss.
"""

from __future__ import annotations

from typing import Any

from composer.models import ComposerModel
from torch import Tensor, nn

from harness.config.schema import SFTConfig
from harness.diffusion.flow import add_noise, velocity_target
from harness.diffusion.schedule import TIMESTEPS
from harness.methods.draws import Draws
from harness.methods.flow_matching import after_clean_first, drop_captions, flow_matching_loss, table_levels
from harness.methods.groups import optimizer_group
from harness.models.denoiser import condition_for, predict_velocity


class SFT(ComposerModel):
    """Flow matching with attention over all frames and one timestep per clip, but for a first frame that is given."""

    draws: Draws  # set before each forward pass

    def __init__(self, generator: nn.Module, config: SFTConfig, *, first_frame_given: bool = False) -> None:
        super().__init__()
        self.generator = generator
        self.config = config
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
        rows = self.draws.integers(TIMESTEPS, x0.shape[0])
        noise = self.draws.noise_like(x0)
        condition = drop_captions(batch["condition"], self.config.caption_dropout, self.draws)
        condition = condition_for(self.generator, condition)
        sigma, weight = (level.to(x0.device) for level in table_levels(rows, self.config))  # [B]
        first = int(self.first_frame_given)
        if first:
            sigma = after_clean_first(sigma, x0.shape[2])  # [B, F]
        velocity = predict_velocity(self.generator, add_noise(x0, noise, sigma), TIMESTEPS * sigma, condition)
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
