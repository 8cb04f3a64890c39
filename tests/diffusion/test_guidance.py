import torch

from harness.diffusion.guidance import guide


def test_scale_one_is_conditional_and_zero_is_unconditional():
    cond, uncond = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)


def test_the_references_scale_three_is_four_here():
    cond, uncond = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0])
    assert torch.equal(guide(cond, uncond, 4.0), cond + 3.0 * (cond - uncond))
