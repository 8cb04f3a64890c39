"""A given first frame in every sampler, on the real network: it stays as it is, and the other frames see it."""

import pytest
import torch
from small_wan import small_wan
from torch import nn

from harness.config.schema import RolloutConfig
from harness.diffusion.flow import velocity_to_x0
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.rollout.causal import causal_blocks, causal_rollout, first_gradient_frame, generated_spans
from harness.rollout.euler import causal_euler_sample, euler_sample
from harness.rollout.few_step import num_blocks, rollout
from harness.rollout.together import Start, rollouts_together

FRAMES, BLOCK, SIZE = 6, 2, 4
SPANS = [(1, 3), (3, 5), (5, 6)]


@pytest.fixture(scope="module")
def model():
    return small_wan(in_channels=9)


def make_condition(seed=3, batch=2):
    rng = torch.Generator().manual_seed(seed)
    return Condition(
        text=torch.randn(batch, 7, 6, generator=rng),
        first_latent=torch.randn(batch, 4, 1, SIZE, SIZE, generator=rng),
        positions=torch.randn(batch, 5, FRAMES, SIZE, SIZE, generator=rng),
    )


def make_noise(seed=4, batch=2):
    return torch.randn(batch, 4, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def make_config(**settings):
    given = {"frames_per_block": BLOCK, "denoising_steps": (1000, 500), "image_conditioning": "first_latent"}
    return RolloutConfig(**given | settings)


def rng():
    return torch.Generator().manual_seed(7)


def few_step(model, noise, condition, **settings):
    return rollout(model, noise, condition, make_config(**settings), rng())


def trained(model, noise, condition, **settings):
    config = make_config(**settings)
    return rollout(model, noise, condition, config, rng(), [1] * num_blocks(config, FRAMES))


def together(model, noise, condition, **settings):
    config = make_config(**settings)
    start = Start(noise, condition, [1] * num_blocks(config, FRAMES), rng())
    return rollouts_together(model, [start], config)[0]


def euler(model, noise, condition, cfg_scale=2.0):
    return euler_sample(model, noise, condition, steps=2, shift=3.0, cfg_scale=cfg_scale, first_frame_given=True)


def causal_euler(model, noise, condition, cfg_scale=2.0):
    return causal_euler_sample(model, noise, condition, make_config(), steps=2, cfg_scale=cfg_scale)


SAMPLERS = {
    "causal": lambda *args: few_step(*args),
    "both": lambda *args: few_step(*args, image_conditioning="both"),
    "noised context": lambda *args: few_step(*args, context_sigma=0.1),
    "window and sink": lambda *args: few_step(*args, window=4, sink=1),
    "bidirectional": lambda *args: few_step(*args, attention="bidirectional"),
    "training, causal": lambda *args: trained(*args),
    "straight through": lambda *args: trained(*args, kv_grad="straight_through"),
    "training, bidirectional": lambda *args: trained(*args, attention="bidirectional"),
    "together, causal": lambda *args: together(*args),
    "together, bidirectional": lambda *args: together(*args, attention="bidirectional"),
    "euler": euler,
    "causal euler": causal_euler,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_given_frame_is_exact_and_every_other_frame_sees_it(model, name):
    sample, condition = SAMPLERS[name], make_condition()
    x = sample(model, make_noise(), condition).detach()
    assert x.shape == make_noise().shape
    assert torch.equal(x[:, :, :1], condition.first_latent)
    other = make_condition(seed=5)
    swapped = sample(
        model,
        make_noise(),
        Condition(text=condition.text, first_latent=other.first_latent, positions=condition.positions),
    )
    changed = (swapped.detach() - x).abs().amax(dim=(0, 1, 3, 4))
    assert changed.min() > 1e-3 * x.std()
    noise = make_noise()
    noise[:, :, 0] = 99.0  # the given frame's own noise is not looked at
    assert torch.equal(sample(model, noise, condition).detach(), x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_missing_first_latent_is_said(model, name):
    with pytest.raises(ValueError, match="no first_latent"):
        SAMPLERS[name](model, make_noise(), Condition(text=make_condition().text))


@pytest.mark.parametrize("name", ["causal", "bidirectional", "euler", "causal euler"])
def test_a_batch_of_different_images_is_each_alone(model, name):
    condition, noise = make_condition(batch=3), make_noise(batch=3)
    joined = SAMPLERS[name](model, noise, condition)
    if name in ("euler", "causal euler"):  # the few-step samplers draw fresh noise for the whole batch
        for row in range(3):
            alone = SAMPLERS[name](model, noise[row : row + 1], condition.select([row]))
            assert torch.allclose(joined[row : row + 1], alone, atol=1e-4 * joined.std().item())
        return
    settings = {"denoising_steps": (1000,), "attention": "bidirectional" if name == "bidirectional" else "causal"}
    joined = few_step(model, noise, condition, **settings)
    for row in range(3):
        alone = few_step(model, noise[row : row + 1], condition.select([row]), **settings)
        assert torch.allclose(joined[row : row + 1], alone, atol=1e-4 * joined.std().item())


def test_cached_is_masked_with_a_given_first_frame(model):
    condition = make_condition()
    x = few_step(model, make_noise(), condition, denoising_steps=(1000,))
    noisy = torch.cat([condition.first_latent, make_noise()[:, :, 1:]], dim=2)
    sigma = torch.ones(2, FRAMES)
    sigma[:, 0] = 0.0
    with torch.no_grad():
        velocity = predict_velocity(model, noisy, 1000 * sigma, condition, frames_per_block=(1, BLOCK), clean=x)
    expected = velocity_to_x0(velocity, noisy, sigma)
    assert torch.allclose(x, expected, atol=1e-4 * x.std().item())


def test_causal_euler_in_one_step_is_the_one_step_rollout(model):
    expected = few_step(model, make_noise(), make_condition(), denoising_steps=(1000,))
    config = make_config()
    sampled = causal_euler_sample(model, make_noise(), make_condition(), config, steps=1, cfg_scale=1.0)
    assert torch.allclose(sampled, expected, atol=1e-5 * expected.std().item())


def test_euler_in_one_step_is_the_bidirectional_one_step_rollout(model):
    expected = few_step(model, make_noise(), make_condition(), denoising_steps=(1000,), attention="bidirectional")
    sampled = euler_sample(
        model, make_noise(), make_condition(), steps=1, shift=5.0, cfg_scale=1.0, first_frame_given=True
    )
    assert torch.allclose(sampled, expected, atol=1e-5 * expected.std().item())


def test_euler_reads_a_first_latent_only_where_it_is_given(model):
    plain = euler_sample(model, make_noise(), make_condition(), steps=2, shift=3.0, cfg_scale=1.0)
    without = Condition(text=make_condition().text, positions=make_condition().positions)
    assert torch.equal(plain, euler_sample(model, make_noise(), without, steps=2, shift=3.0, cfg_scale=1.0))


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_gradient_reaches_the_generated_frames_alone(model, attention):
    noise, condition = make_noise().requires_grad_(), make_condition()
    condition.first_latent.requires_grad_()
    x = trained(model, noise, condition, attention=attention)
    assert x.requires_grad
    model.zero_grad()
    with pytest.raises(RuntimeError, match="does not require grad"):
        next(causal_blocks(model, noise, condition, make_config(), rng(), [0] * 3)).sum().backward()
    x[:, :, 0].sum().backward(retain_graph=True)
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
    x[:, :, 1:].square().sum().backward()
    assert model.proj_out.weight.grad.abs().max() > 0
    assert condition.first_latent.grad is None


def test_blocks_come_as_they_are_made(model):
    class Counted(nn.Module):
        calls = 0

        def forward(self, **arguments):
            self.calls += 1
            return model(**arguments)

    counted, config = Counted(), make_config()
    with torch.no_grad():
        blocks = causal_blocks(counted, make_noise(), make_condition(), config, rng(), [1] * 3)
        first = next(blocks)
        assert torch.equal(first, make_condition().first_latent)
        assert counted.calls == 0
        second = next(blocks)
        assert counted.calls == 3  # the first frame's commit, two steps
        rest = list(blocks)
        whole = causal_rollout(model, make_noise(), make_condition(), config, rng(), [1] * 3)
    assert [block.shape[2] for block in rest] == [2, 1]
    assert torch.equal(torch.cat([first, second, *rest], dim=2), whole)


def test_the_first_frame_is_committed_clean_and_only_once(model):
    seen = []

    class Recorded(nn.Module):
        def forward(self, **arguments):
            if arguments.get("write_cache"):
                seen.append((arguments.get("frame_offset", 0), arguments))
            return model(**arguments)

    few_step(Recorded(), make_noise(), make_condition(), context_sigma=0.1)
    assert [offset for offset, _ in seen] == [0, 1, 3]
    first = seen[0][1]
    assert torch.equal(first["hidden_states"][:, :4], make_condition().first_latent)
    assert first["timestep"].tolist() == [0.0, 0.0]
    assert seen[1][1]["timestep"].tolist() == [100.0, 100.0]


def test_no_graph_is_built_for_the_given_frame(model):
    with_gradient = []

    class Recorded(nn.Module):
        def forward(self, **arguments):
            if arguments.get("write_cache"):
                with_gradient.append(torch.is_grad_enabled())
            return model(**arguments)

    trained(Recorded(), make_noise(), make_condition(), kv_grad="straight_through")
    assert with_gradient == [False, True, True]


def test_only_generated_blocks_are_counted():
    assert list(generated_spans(FRAMES, make_config())) == SPANS
    assert list(generated_spans(FRAMES, make_config(image_conditioning="channels"))) == [(0, 2), (2, 4), (4, 6)]
    assert num_blocks(make_config(), FRAMES) == 3
    assert num_blocks(make_config(), 9) == 4
    assert num_blocks(make_config(attention="bidirectional"), FRAMES) == 1
    assert first_gradient_frame(FRAMES, make_config()) == 1
    assert first_gradient_frame(FRAMES, make_config(gradient_frames=4)) == 3
    assert first_gradient_frame(FRAMES, make_config(gradient_frames=1)) == 5


def test_a_clip_of_the_given_frame_alone(model):
    condition = make_condition()
    for attention in ("causal", "bidirectional"):
        x = few_step(model, make_noise()[:, :, :1], condition, attention=attention)
        assert torch.equal(x, condition.first_latent)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_rollouts_together_are_those_alone(model, attention):
    config = make_config(attention=attention, denoising_steps=(1000, 600, 300))
    blocks = num_blocks(config, FRAMES)
    exits = ([1] * blocks, [0] * blocks, [2] * blocks)

    def starts():
        return [
            Start(
                make_noise(n, batch=1 + n % 2), make_condition(n, batch=1 + n % 2), e, torch.Generator().manual_seed(n)
            )
            for n, e in enumerate(exits)
        ]

    clips = rollouts_together(model, starts(), config)
    for clip, start in zip(clips, starts(), strict=True):
        with torch.no_grad():
            alone = rollout(model, start.noise, start.condition, config, start.rng, start.exit_steps)
        assert torch.equal(clip[:, :, :1], start.condition.first_latent)
        assert torch.allclose(clip, alone, atol=2e-5 * alone.std().item())
