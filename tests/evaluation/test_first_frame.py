import math

import numpy as np
import pytest
import torch

from harness.evaluation.first_frame import psnr, ssim


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error():
    images = torch.full((2, 3, 4, 4), 0.5)
    frames = images + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert psnr(frames, images).tolist() == pytest.approx([20, 40], abs=1e-4)
    one_wrong = images.clone()
    one_wrong[0, 0, 0, 0] = 1.5  # one of 48 values, by 1
    assert psnr(one_wrong, images)[0] == pytest.approx(10 * math.log10(48))


def test_psnr_does_not_reward_what_rounding_hides():
    images = (pictures(1, 3, 8, 8) * 255).round() / 255
    assert psnr(images, images).item() == pytest.approx(10 * math.log10(12 * 255**2))
    assert psnr(images + 1e-4, images).item() == pytest.approx(psnr(images, images).item())


def ssim_by_hand(x: np.ndarray, y: np.ndarray, window: int = 11, sigma: float = 1.5) -> float:
    """One channel `[H, W]`, window by window."""
    places = np.arange(window) - window // 2
    line = np.exp(-(places**2) / (2 * sigma**2))
    weights = np.outer(line, line) / line.sum() ** 2
    found = []
    for i in range(x.shape[0] - window + 1):
        for j in range(x.shape[1] - window + 1):
            a, b = x[i : i + window, j : j + window], y[i : i + window, j : j + window]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(found))


def test_ssim_is_that_of_the_paper():
    x, y = pictures(2, 3, 14, 12), pictures(2, 3, 14, 12, seed=1)
    y[0] = 0.7 * x[0] + 0.3 * y[0]
    found = ssim(x, y)
    for row in range(2):
        by_hand = np.mean([ssim_by_hand(x[row, c].double().numpy(), y[row, c].double().numpy()) for c in range(3)])
        assert found[row].item() == pytest.approx(by_hand, abs=1e-9)
    assert found[0] > 0.5 > found[1]


def test_ssim_sees_structure_and_not_only_error():
    x = pictures(1, 3, 24, 24)
    brighter, noisy = x + 0.1, x + 0.2 * (pictures(1, 3, 24, 24, seed=2) - 0.5)
    assert ssim(x, x).item() == pytest.approx(1)
    assert psnr(brighter, x) < psnr(noisy, x) - 3
    assert ssim(brighter, x) == pytest.approx(ssim(noisy, x).item(), abs=0.03)
    assert ssim(1 - x, x) < 0


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (10, 7), (24, 40)])
def test_any_size(size):
    x = pictures(2, 3, *size)
    assert ssim(x, x).tolist() == pytest.approx([1, 1])
    assert torch.isfinite(ssim(x, pictures(2, 3, *size, seed=3))).all()


def test_each_picture_on_its_own():
    x, y = pictures(3, 3, 16, 16), pictures(3, 3, 16, 16, seed=4)
    for measure in (psnr, ssim):
        alone = torch.cat([measure(x[i : i + 1], y[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(measure(x, y), alone)
        assert len(set(alone.tolist())) == 3


def test_other_sizes_are_refused():
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match=r"first frames are \[1, 3, 4, 4\], the given images \[1, 3, 4, 5\]"):
            measure(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
