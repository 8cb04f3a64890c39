import numpy as np
import pytest

from harness.evaluation.diversity import diversity, mode_coverage, same_group_distance


def test_only_pairs_of_one_prompt_count():
    x = np.array([[0.0], [1.0], [100.0], [103.0]])
    assert same_group_distance(x, np.array([0, 0, 1, 1])) == pytest.approx(2.0)


def test_no_pair_has_no_value():
    assert np.isnan(same_group_distance(np.zeros((2, 1)), np.array([0, 1])))


def test_copies_are_zero_and_real_spread_is_one():
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(5), 40)
    real = rng.normal(size=(200, 6)) + 10 * kinds[:, None]
    assert diversity(real[::-1], kinds[::-1], real, kinds) == pytest.approx(1.0)
    assert diversity(np.repeat(real[::40], 40, axis=0), kinds, real, kinds) == 0.0


def test_mode_coverage_is_the_overlap_of_histograms():
    real = np.array(["left", "right", "up", "down"] * 5)
    assert mode_coverage(real[::-1], real) == pytest.approx(1.0)
    assert mode_coverage(np.array(["left"] * 7), real) == pytest.approx(0.25)
    assert mode_coverage(np.array(["left", "up"]), real) == pytest.approx(0.5)
    assert mode_coverage(np.array([""] * 3), real) == 0
