"""The rollout on the real network: what the cache gives must be what teacher forcing on the finished clip gives."""

import pytest
import torch
from small_wan import small_wan

from harness.config.schema import RolloutConfig
from harness.diffusion.flow import velocity_to_x0
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.kv_cache import KVCache
from harness.rollout.euler import causal_euler_sample
from harness.rollout.few_step import rollout

FRAMES, BLOCK = 5, 2


@pytest.fixture(scope="module")
def model():
    return small_wan(in_channels=4)


@pytest.fixture(scope="module")
def condition():
    return Condition(text=torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(3)))


def noise():
    return torch.randn(2, 4, FRAMES, 4, 4, generator=torch.Generator().manual_seed(4))


def one_step(**settings):
    return RolloutConfig(frames_per_block=BLOCK, denoising_steps=(1000,), **settings)


def roll(model, condition, config):
    exits = [0] * 3
    return rollout(model, noise(), condition, config, torch.Generator().manual_seed(0), exits)


def teacher_forced(model, condition, clean):
    """Predict all blocks from noise at once, each given the clean blocks before it."""
    t = torch.full((2, FRAMES), 1000.0)
    velocity = predict_velocity(model, noise(), t, condition, frames_per_block=BLOCK, clean=clean)
    return velocity_to_x0(velocity, noise(), torch.ones(2, FRAMES))


def gradients(model, x):
    model.zero_grad()
    weights = torch.linspace(-1, 2, x.numel()).reshape(x.shape)
    (x * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_rollout_is_teacher_forcing_on_its_own_output(model, condition):
    x = roll(model, condition, one_step())
    expected = teacher_forced(model, condition, x.detach())
    assert torch.allclose(x, expected, atol=1e-4 * x.std().item())


def test_its_gradient_is_that_of_each_block_alone_on_a_fixed_past(model, condition):
    x = roll(model, condition, one_step())
    own = gradients(model, x)
    with torch.no_grad():
        past = x.clone()

    blocks = []
    for start, end in ((0, 2), (2, 4), (4, 5)):
        cache = KVCache()
        with torch.no_grad():
            for a, b in ((0, 2), (2, 4)):
                if b <= start:
                    block = past[:, :, a:b]
                    predict_velocity(
                        model, block, torch.zeros(2), condition, cache=cache, write_cache=True, frame_offset=a
                    )
        x_t = noise()[:, :, start:end]
        t = torch.full((2,), 1000.0)
        velocity = predict_velocity(model, x_t, t, condition, cache=cache, frame_offset=start)
        blocks.append(velocity_to_x0(velocity, x_t, t / 1000))
    by_hand = gradients(model, torch.cat(blocks, dim=2))
    assert own.keys() == by_hand.keys()
    for name, gradient in own.items():
        assert torch.allclose(gradient, by_hand[name], rtol=1e-4, atol=1e-4 * gradient.abs().max().item()), name


def test_straight_through_changes_the_gradient_and_nothing_else(model, condition):
    detached = roll(model, condition, one_step())
    released = roll(model, condition, one_step(kv_grad="straight_through"))
    assert torch.allclose(detached, released, atol=1e-5 * detached.std().item())
    plain, leaking = gradients(model, detached), gradients(model, released)
    name = "blocks.0.attn1.to_k.weight"
    assert not torch.allclose(plain[name], leaking[name], rtol=0.01, atol=1e-3 * plain[name].abs().max().item())


def test_no_gradient_of_a_later_block_reaches_an_earlier_one(model, condition):
    for kv_grad, alone in (("detach", True), ("straight_through", False)):
        start = noise().requires_grad_()
        x = rollout(model, start, condition, one_step(kv_grad=kv_grad), torch.Generator(), [0] * 3)
        (gradient,) = torch.autograd.grad(x[:, :, 2:4].sum(), start)
        assert (gradient[:, :, :2].abs().max().item() == 0) is alone
        assert gradient[:, :, 2:4].abs().min() > 0
        assert gradient[:, :, 4:].abs().max() == 0


def test_window_and_sink_reach_the_cache(model, condition):
    everything = roll(model, condition, one_step())
    windowed = roll(model, condition, one_step(window=4))
    with_sink = roll(model, condition, one_step(window=4, sink=1))
    assert torch.equal(everything[:, :, :4], windowed[:, :, :4])
    assert not torch.allclose(everything[:, :, 4:], windowed[:, :, 4:], atol=1e-3)
    assert not torch.allclose(with_sink[:, :, 4:], windowed[:, :, 4:], atol=1e-3)


def test_causal_euler_in_one_step_is_the_one_step_rollout(model, condition):
    with torch.no_grad():
        expected = roll(model, condition, one_step())
    sampled = causal_euler_sample(model, noise(), condition, one_step(), steps=1, cfg_scale=1.0)
    assert torch.allclose(sampled, expected, atol=1e-5 * expected.std().item())


def test_guidance_on_the_network_keeps_a_past_for_each_half(model, condition):
    sampled = causal_euler_sample(model, noise(), condition, one_step(), steps=2, cfg_scale=2.0)
    doubled = causal_euler_sample(
        model, torch.cat([noise()] * 2), condition.repeat(2), one_step(), steps=2, cfg_scale=2.0
    )
    assert torch.allclose(torch.cat([sampled] * 2), doubled, atol=1e-4 * sampled.std().item())
    unguided = causal_euler_sample(model, noise(), condition, one_step(), steps=2, cfg_scale=1.0)
    assert not torch.allclose(sampled, unguided, atol=0.1 * sampled.std().item())
