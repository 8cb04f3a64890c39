"""A five-parameter denoiser with a memory, small enough that a rollout can be written out by hand."""

import torch
from torch import nn

from harness.models.condition import Condition


class LinearVideo(nn.Module):
    """`v = a·x + b·t/1000 + c·mean(past) + d·mean(text)`.

    A commit pass remembers `e·mean(x)` as it is, gradient and all. Records every call.
    The past is kept here, one for each cache.
    """

    def __init__(self):
        super().__init__()
        for name, value in zip("abcde", (0.3, 0.2, 0.7, 0.4, 1.3)):
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))
        self.calls = []
        self.past = {}

    def forward(
        self,
        hidden_states,
        timestep,
        encoder_hidden_states,
        return_dict=True,
        cache=None,
        write_cache=False,
        frame_offset=0,
    ):
        past = self.past.setdefault(id(cache), []) if cache is not None else []
        self.calls.append(
            {
                "x": hidden_states.detach().clone(),
                "t": timestep.detach().clone(),
                "write": write_cache,
                "cached": cache is not None,
                "offset": frame_offset,
                "grad": torch.is_grad_enabled(),
                "input_grad": hidden_states.requires_grad,
                "batch": hidden_states.shape[0],
            }
        )
        summary = self.e * hidden_states.mean(dim=(1, 2, 3, 4), keepdim=True)
        context = sum(past) / len(past) if past else torch.zeros_like(summary)
        if write_cache:
            past.append(summary)
            return (torch.full_like(hidden_states, float("nan")),)
        level = (timestep / 1000).reshape(-1, 1, 1, 1, 1)
        words = encoder_hidden_states.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        return (self.a * hidden_states + self.b * level + self.c * context + self.d * words,)

    def gradients(self):
        return [None if p.grad is None else p.grad.item() for p in self.parameters()]


def make_noise(frames=4, batch=2, seed=0):
    return torch.randn(batch, 3, frames, 2, 2, generator=torch.Generator().manual_seed(seed))


def make_condition(batch=2):
    return Condition(text=torch.linspace(-1, 1, batch * 6).reshape(batch, 3, 2))
