import pytest
import torch

from harness.diffusion.flow import add_noise, expand_like, velocity_target, velocity_to_x0


def latents(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 2, 2, generator=generator).to(dtype)


@pytest.mark.parametrize(
    "sigma", [torch.tensor([0.3, 0.9]), torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])]
)
def test_velocity_and_x0_undo_the_noising(sigma):
    x0, noise = latents(0), latents(1)
    x_t = add_noise(x0, noise, sigma)
    assert torch.allclose(velocity_to_x0(velocity_target(x0, noise), x_t, sigma), x0, atol=1e-6)


def test_levels_per_frame_reach_their_own_frame():
    x0, noise = torch.zeros(2, 3, 4, 2, 2), torch.ones(2, 3, 4, 2, 2)
    sigma = torch.tensor([[0.0, 0.25, 0.5, 1.0], [1.0, 0.0, 0.0, 0.0]])
    assert torch.equal(add_noise(x0, noise, sigma)[:, 1, :, 1, 0], sigma)


def test_level_zero_is_data_and_level_one_is_noise():
    x0, noise = latents(0), latents(1)
    assert torch.equal(add_noise(x0, noise, torch.zeros(2)), x0)
    assert torch.equal(add_noise(x0, noise, torch.ones(2)), noise)


def test_the_velocity_points_from_data_to_noise():
    x0, noise = latents(0), latents(1)
    ahead = add_noise(x0, noise, torch.full((2,), 0.6)) - add_noise(x0, noise, torch.full((2,), 0.5))
    assert torch.allclose(ahead / 0.1, velocity_target(x0, noise), atol=1e-5)


def test_the_conversion_runs_in_float64_and_keeps_the_type():
    x_t, velocity = latents(0, torch.bfloat16), latents(1, torch.bfloat16)
    sigma = torch.full((2,), 0.00498)
    exact = (x_t.double() - sigma.double()[0] * velocity.double()).to(torch.bfloat16)
    x0 = velocity_to_x0(velocity, x_t, sigma)
    assert x0.dtype == torch.bfloat16
    assert torch.equal(x0, exact)
    big = torch.tensor([1e8]).view(1, 1, 1, 1, 1)  # float32 steps there are 8 wide
    assert velocity_to_x0(big, big, torch.tensor([1.0])).item() == 0.0
    assert velocity_to_x0(torch.full_like(big, 1 + 1e8), big + 8, torch.tensor([0.9999999])).item() == pytest.approx(
        1e8 + 8 - 1e8 * float(torch.tensor(0.9999999)), rel=1e-5
    )


def test_expand_like_gives_broadcastable_shapes():
    x = latents()
    assert expand_like(torch.ones(2), x).shape == (2, 1, 1, 1, 1)
    assert expand_like(torch.ones(2, 4), x).shape == (2, 1, 4, 1, 1)
