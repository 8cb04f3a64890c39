"""A world of single numbers with a known law, where every optimum of distillation can be written down.

Real data under a caption c is N(MEAN·c, STD²), each element on its own; without a caption c is 0. A teacher guided by w
then has the law N(w·MEAN·c, STD²).
"""

import torch
from torch import nn

from harness.config.schema import AdamWConfig, DMDConfig, RolloutConfig
from harness.methods.dmd import DMD
from harness.methods.draws import Draws
from harness.models.condition import Condition

MEAN, STD = 1.0, 0.6
SHAPE = (1, 2, 1, 1)  # [C, F, H, W]


class GaussianDenoiser(nn.Module):
    """The exact velocity of N(mean·c, std²); bidirectional. `calls` are (batch, gradients enabled)."""

    def __init__(self, mean=MEAN, std=STD):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(float(mean)))
        self.log_std = nn.Parameter(torch.tensor(float(std)).log())
        self.calls = []

    def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict=False):
        self.calls.append((hidden_states.shape[0], torch.is_grad_enabled()))
        sigma = (timestep / 1000).reshape(-1, 1, 1, 1, 1)
        mean = self.mean * encoder_hidden_states.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        data, noise = (1 - sigma) * self.log_std.exp() ** 2, sigma
        offset = hidden_states - (1 - sigma) * mean
        return ((noise - data) * offset / ((1 - sigma) * data + sigma * noise) - mean,)


class AffineGenerator(nn.Module):
    """In one step from pure noise: `x = mean·c + std·noise`."""

    def __init__(self, mean, std=STD):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(float(mean)))
        self.std = nn.Parameter(torch.tensor(float(std)))

    def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict=False):
        caption = encoder_hidden_states.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        return ((1 - self.std) * hidden_states - self.mean * caption,)


def make_batch(size, seed=0):
    captions = torch.where(torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.5, -1.0, 1.0)
    return {"latent": torch.zeros(size, *SHAPE), "condition": Condition(text=captions.reshape(-1, 1, 1))}


def make_dmd(generator_mean=-0.5, critic=None, rollout=None, **settings):
    adam = {"betas": (0.0, 0.999), "weight_decay": 0.0}
    settings = {
        "generator_updates": 1,
        "shift": 3.0,
        "cfg_scale": 1.5,
        "normalize_gradient": "none",
        "generator_optimizer": AdamWConfig(lr=0.05, **adam),
        "critic_optimizer": AdamWConfig(lr=0.05, **adam),
    } | settings
    method = DMD(
        generator=AffineGenerator(generator_mean),
        critic=critic or GaussianDenoiser(),
        teacher=GaussianDenoiser(),
        config=DMDConfig(**settings),
        rollout=rollout or RolloutConfig(attention="bidirectional", denoising_steps=(1000,)),
    )
    method.draws = Draws.at(0, 0)
    return method


def train(method, updates, critic_updates=5, batch_size=128):
    """Alternate as the trainer does: `critic_updates` of the critic, then one of the generator."""
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=1.0)
    phases = [*["critic"] * critic_updates, "generator"]
    for step in range(updates * len(phases)):
        method.phase, method.draws = phases[step % len(phases)], Draws.at(1, step)
        optimizer.zero_grad(set_to_none=True)
        batch = make_batch(batch_size, step)
        method.loss(method(batch), batch).backward()
        optimizer.step()
    return method
