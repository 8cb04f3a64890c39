import torch

from harness.rollout.block import draw_noise, full_timestep


def test_noise_comes_from_the_given_generator_only():
    like = torch.zeros(2, 3, dtype=torch.bfloat16)
    torch.manual_seed(0)
    first = draw_noise(like, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    assert torch.equal(first, draw_noise(like, torch.Generator().manual_seed(5)))
    assert first.dtype == torch.bfloat16
    state = torch.get_rng_state()
    draw_noise(like, torch.Generator().manual_seed(5))
    assert torch.equal(state, torch.get_rng_state())


def test_timesteps_stay_float32_for_half_precision_latents():
    t = full_timestep(937.5, torch.zeros(2, 3, dtype=torch.bfloat16))
    assert t.dtype == torch.float32
    assert t.tolist() == [937.5, 937.5]
