"""A one-parameter denoiser that records what it is called with."""

import torch
from torch import nn

from harness.models.condition import Condition


class Recording(nn.Module):
    """`v = scale·x`."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.calls = []

    def forward(self, hidden_states, timestep, encoder_hidden_states, **given):
        self.calls.append({"x": hidden_states, "t": timestep, "text": encoder_hidden_states, "given": given})
        return (self.scale * hidden_states,)


def make_batch(size=4, frames=5):
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(size, 3, 2, generator=generator)
    return {
        "latent": torch.randn(size, 2, frames, 2, 2, generator=generator),
        "condition": Condition(text=text, unconditional_text=torch.full((1, 3, 2), 0.5)),
    }
