import pytest
import torch

from harness.diffusion.distribution_matching import dmd_gradient, dmd_loss, score_timesteps


def latents(seed, frames=5):
    return torch.randn(2, 3, frames, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_is_the_difference_over_the_distance_of_each_sample():
    x, fake, real = latents(0), latents(1), latents(2)
    grad = dmd_gradient(x, fake, real, "sample", 3)
    for b in range(2):
        expected = (fake[b] - real[b]) / (x[b] - real[b]).abs().mean()
        assert torch.allclose(grad[b], expected, rtol=1e-6)


def test_the_gradient_can_be_normalized_per_block():
    x, fake, real = latents(0), latents(1), latents(2)
    grad = dmd_gradient(x, fake, real, "block", 3)
    for b in range(2):
        for frames in (slice(0, 3), slice(3, 5)):  # the last block is shorter
            distance = (x[b, :, frames] - real[b, :, frames]).abs().mean()
            assert torch.allclose(grad[b, :, frames], (fake - real)[b, :, frames] / distance, rtol=1e-6)


def test_one_block_per_clip_is_the_same_as_per_sample():
    x, fake, real = latents(0), latents(1), latents(2)
    assert torch.allclose(dmd_gradient(x, fake, real, "block", 5), dmd_gradient(x, fake, real, "sample", 5))


def test_without_normalizer_the_difference_is_left_as_it_is():
    x, fake, real = latents(0), latents(1), latents(2)
    assert torch.equal(dmd_gradient(x, fake, real, "none", 3), fake - real)


@pytest.mark.parametrize("normalize", ["sample", "block"])
def test_a_sample_where_nothing_is_to_do_gets_zero_and_spares_the_others(normalize):
    x, fake, real = latents(0), latents(1), latents(2)
    real[0] = x[0]
    fake[0, :, :3] = x[0, :, :3]  # 0/0 in the first block, a finite number over 0 in the second
    grad = dmd_gradient(x, fake, real, normalize, 3)
    assert torch.equal(grad[0], torch.zeros_like(grad[0]))
    assert grad[1].abs().min() > 0


def test_nan_becomes_zero():
    x, fake, real = latents(0), latents(1), latents(2)
    fake[0, 0, 0, 0, 0] = float("nan")
    grad = dmd_gradient(x, fake, real, "none", 3)
    assert grad[0, 0, 0, 0, 0] == 0
    assert torch.equal(grad[1], (fake - real)[1])


def test_the_loss_has_the_gradient_over_the_number_of_elements():
    x, grad = latents(0).requires_grad_(), latents(1)
    loss = dmd_loss(x, grad)
    loss.backward()
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(0.5 * grad.double().square().mean().item(), rel=1e-6)
    assert torch.allclose(x.grad, grad / grad.numel(), rtol=1e-5)


def test_score_timesteps_are_shifted_and_clamped():
    u = torch.tensor([0, 1, 500, 999])
    t = score_timesteps(u, 5.0, 20.0, 980.0)
    assert t.dtype == torch.float32
    assert t.tolist() == pytest.approx([20.0, 20.0, 2500 / 3, 980.0])
    free = score_timesteps(u, 5.0, 0.0, 1000.0)
    assert free[1].item() == pytest.approx(1000 * 0.005 / 1.004)
    assert free[3].item() == pytest.approx(1000 * 4.995 / 4.996)


def test_as_many_draws_are_clamped_as_in_the_reference():
    clamped = (score_timesteps(torch.arange(1000), 5.0, 20.0, 980.0) == 980.0).float().mean().item()
    assert clamped == pytest.approx(0.092, abs=0.001)
