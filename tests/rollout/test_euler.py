from itertools import pairwise

import pytest
import torch
from linear_video import LinearVideo, make_condition, make_noise
from torch import nn

from harness.config.schema import RolloutConfig
from harness.diffusion.schedule import sampling_sigmas
from harness.models.condition import Condition
from harness.rollout.euler import causal_euler_sample, euler_sample

STD = 0.5


class GaussianFlow(nn.Module):
    """The exact velocity of the law N(mean(text), STD²): `E[noise − x0 | x_t]`."""

    def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict=False, write_cache=False, **_):
        sigma = (timestep / 1000).reshape(-1, 1, 1, 1, 1)
        mean = encoder_hidden_states.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        variance = ((1 - sigma) * STD) ** 2 + sigma**2
        offset = hidden_states - (1 - sigma) * mean
        return ((sigma - (1 - sigma) * STD**2) * offset / variance - mean,)


CONDITION = Condition(text=torch.tensor([2.0, -1.0]).reshape(2, 1, 1))
MEANS = torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1, 1)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_of_a_gaussian_is_followed_to_its_exact_end(shift):
    noise = make_noise()
    exact = MEANS + STD * noise  # the ODE's solution: noise is scaled by the target's standard deviation
    errors = [
        (euler_sample(GaussianFlow(), noise, CONDITION, steps=n, shift=shift, cfg_scale=1.0) - exact).abs().max().item()
        for n in (40, 80, 160)
    ]
    assert errors[2] < 0.04
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)  # first order
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_guidance_shifts_the_mean_as_it_should():
    noise = make_noise()
    x = euler_sample(GaussianFlow(), noise, CONDITION, steps=100, shift=3.0, cfg_scale=2.0)
    assert torch.allclose(x, 2.0 * MEANS + STD * noise, atol=0.05)


def test_block_by_block_reaches_the_same_law():
    noise = make_noise(frames=5)
    config = RolloutConfig(frames_per_block=2, shift=3.0)
    model = GaussianFlow()
    whole = euler_sample(model, noise, CONDITION, steps=20, shift=3.0, cfg_scale=2.0)
    blocks = causal_euler_sample(model, noise, CONDITION, config, steps=20, cfg_scale=2.0)
    assert torch.allclose(blocks, whole, atol=1e-6)


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_each_half_of_a_guided_causal_sample_sees_its_past(cfg_scale):
    model, noise, condition = LinearVideo(), make_noise(frames=5), make_condition()
    config = RolloutConfig(frames_per_block=2, shift=2.0)
    x = causal_euler_sample(model, noise, condition, config, steps=3, cfg_scale=cfg_scale)
    a, b, c, d, e = (p.item() for p in model.parameters())
    words = condition.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
    sigmas, past, blocks = sampling_sigmas(3, 2.0), [], []
    for start, end in ((0, 2), (2, 4), (4, 5)):
        z = noise[:, :, start:end]
        context = sum(past) / len(past) if past else 0.0
        for s, s_next in pairwise(sigmas):
            guided = a * z + b * s + c * context + cfg_scale * d * words
            z = z + (s_next - s) * guided
        blocks.append(z)
        past.append(e * z.mean(dim=(1, 2, 3, 4), keepdim=True))
    assert torch.allclose(x, torch.cat(blocks, dim=2), atol=1e-5)
    commits = [call for call in model.calls if call["write"]]
    assert [call["offset"] for call in commits] == [0, 2]
    assert all(call["t"].abs().max() == 0 for call in commits)
    assert {call["batch"] for call in model.calls} == {2 if cfg_scale == 1.0 else 4}


def test_sampling_leaves_no_graph():
    x = euler_sample(LinearVideo(), make_noise(), make_condition(), steps=2, shift=1.0, cfg_scale=1.0)
    assert not x.requires_grad
