import numpy as np
import pytest

from harness.evaluation.frechet import frechet, frechet_from_moments, frechet_unbiased


def test_closed_form_for_axis_aligned_gaussians():
    mean_x, mean_y = np.array([0.0, 1.0]), np.array([2.0, 1.0])
    cov_x, cov_y = np.diag([4.0, 1.0]), np.diag([1.0, 9.0])
    # ‖μ‖² + Σ (σx − σy)²
    assert frechet_from_moments(mean_x, cov_x, mean_y, cov_y) == pytest.approx(4 + 1 + 4)


def test_rotation_changes_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(60, 4)) * [1, 2, 3, 4]
    q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    assert frechet(x @ q, y @ q) == pytest.approx(frechet(x, y), rel=1e-9)


def test_the_bias_of_small_sets_is_removed():
    plain, unbiased = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(128, 20)), rng.normal(size=(128, 20))
        plain.append(frechet(x, y))
        unbiased.append(frechet_unbiased(x, y))
    assert np.mean(plain) > 1.0
    assert abs(np.mean(unbiased)) < 0.25 * np.mean(plain)


def test_a_shift_is_measured_at_its_size():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(256, 10)), rng.normal(size=(256, 10))
    assert frechet_unbiased(x + 1.0, y) == pytest.approx(10.0, rel=0.15)


def test_it_draws_nothing_from_the_global_state():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 5))
    first = frechet_unbiased(x, y)
    np.random.rand(7)
    assert frechet_unbiased(x, y) == first
