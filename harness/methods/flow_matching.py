"""What both kinds of supervised fine-tuning share: the weighted flow matching loss and caption dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.config.schema import SFTConfig
from harness.diffusion.schedule import sigma_table, training_weights
from harness.methods.draws import Draws
from harness.models.condition import Condition


def table_levels(rows: Tensor, config: SFTConfig) -> tuple[Tensor, Tensor]:
    """Look up the noise levels and loss weights of rows of the training table; both float32 in the shape of `rows`."""
    sigma = sigma_table(config.shift)[rows].float()
    if config.weighting == "uniform":
        return sigma, torch.ones_like(sigma)
    return sigma, training_weights(config.shift)[rows].float()


def after_clean_first(sigma: Tensor, frames: int) -> Tensor:
    """Give noise levels per frame `[B, F]` where the first is given: 0 there, then `sigma` `[B]` or `[B, F − 1]`."""
    rest = sigma[:, None].expand(-1, frames - 1) if sigma.ndim == 1 else sigma
    return torch.cat([torch.zeros_like(rest[:, :1]), rest], dim=1)


def flow_matching_loss(velocity: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Give the weighted loss, and the plain squared error without gradient, as float32 scalars.

    The mean over C, H, W comes first; then `weight` `[B]` or `[B, F]` applies per frame; then the mean, as the
    reference does.
    """
    per_frame = (velocity.float() - target.float()).square().mean(dim=(1, 3, 4))  # [B, F]
    if weight.ndim == 1:
        weight = weight[:, None]
    return (per_frame * weight).mean(), per_frame.detach().mean()


def drop_captions(condition: Condition, probability: float, draws: Draws) -> Condition:
    """Drop the text of each sample with `probability`: this trains the unconditional prediction that guidance needs."""
    if probability == 0.0:
        return condition
    mask = draws.chances(probability, condition.text.shape[0])
    return condition.drop_text(mask.to(condition.text.device))
