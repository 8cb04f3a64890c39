"""Small random text-to-video and image-to-video networks that record their calls, and batches with an image."""

import torch
from attrs import evolve
from torch import nn

from harness.config.schema import AdamWConfig, DMDConfig, RolloutConfig
from harness.methods.dmd import DMD
from harness.methods.draws import Draws
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition

FRAMES, SIZE, LATENT, MASKED, POSITIONS = 5, 4, 4, 8, 5
SHAPE = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": LATENT,
    "text_dim": 6,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


class Recorded(CausalWan):
    """Keeps the arguments and the result of each call."""

    def forward(self, *args, **kwargs):
        result = super().forward(*args, **kwargs)
        output = result[0].detach().clone()
        self.__dict__.setdefault("calls", []).append({**kwargs, "output": output})
        return result


def make_network(seed, image=True):
    torch.manual_seed(seed)
    reads = {"in_channels": LATENT + POSITIONS}
    if image:
        reads = {"in_channels": LATENT + MASKED + POSITIONS, "image_dim": 6, "added_kv_proj_dim": 24}
    network = Recorded(**SHAPE, **reads)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def make_batch(size=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    latent = torch.randn(size, LATENT, FRAMES, SIZE, SIZE, generator=rng)
    condition = Condition(
        text=torch.randn(size, 7, 6, generator=rng),
        image_tokens=torch.randn(size, 3, 6, generator=rng),
        y=torch.randn(size, MASKED, FRAMES, SIZE, SIZE, generator=rng),
        first_latent=latent[:, :, :1],
        positions=torch.randn(size, POSITIONS, FRAMES, SIZE, SIZE, generator=rng),
        unconditional_text=torch.randn(1, 7, 6, generator=rng),
    )
    return {"latent": latent, "condition": condition}


def make_dmd(way, attention="causal", phase="generator", **settings):
    """A method whose generator reads the image unless it is only given the first frame."""
    adam = AdamWConfig(lr=1e-3)
    rollout = {"attention": attention, "frames_per_block": 2, "denoising_steps": (1000,), "image_conditioning": way}
    given = {"generator_updates": 1, "generator_optimizer": adam, "critic_optimizer": adam}
    method = DMD(
        generator=make_network(1, image=way != "first_latent"),
        critic=make_network(2),
        teacher=make_network(3),
        config=DMDConfig(**given | settings),
        rollout=RolloutConfig(**rollout),
    )
    method.phase, method.draws = phase, Draws.at(0, 0)
    return method


def forget(method):
    """Drop what was recorded."""
    for network in method.networks().values():
        network.__dict__["calls"] = []


def with_condition(batch, **changes):
    """The batch with parts of its condition replaced."""
    return {**batch, "condition": evolve(batch["condition"], **changes)}
