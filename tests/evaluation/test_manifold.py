import numpy as np
import pytest

from harness.evaluation.manifold import distances, precision_recall


def test_distances():
    assert distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])) == pytest.approx(
        np.array([[5.0, 1.0]])
    )


def test_equal_sets_are_perfect_and_distant_sets_are_not():
    x = np.random.default_rng(0).normal(size=(60, 4))
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x + 100, x) == (0.0, 0.0)


def test_half_of_the_modes_halves_recall_only():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(80, 3)) + np.repeat([[0.0], [50.0]], 40, axis=0)
    made = rng.normal(size=(80, 3))
    precision, recall = precision_recall(made, real)
    assert precision > 0.9
    assert recall == pytest.approx(0.5, abs=0.05)


def test_copies_cover_nothing():
    rng = np.random.default_rng(2)
    real = rng.normal(size=(80, 3))
    precision, recall = precision_recall(np.repeat(real[:4], 20, axis=0), real)
    assert precision == 1.0
    assert recall <= 0.05


def test_samples_far_out_lower_precision_only():
    rng = np.random.default_rng(3)
    real = rng.normal(size=(80, 3))
    made = np.concatenate([rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) + 50])
    precision, recall = precision_recall(made, real)
    assert precision == pytest.approx(0.5, abs=0.1)
    assert recall > 0.8
