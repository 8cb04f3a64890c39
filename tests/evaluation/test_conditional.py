import numpy as np
import pytest

from harness.evaluation.conditional import conditional_energy, group_weights, kernel_energy


def clips(seed: int, count: int = 60) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features that follow a color of 3 and a speed of 2."""
    rng = np.random.default_rng(seed)
    color, speed = rng.integers(0, 3, count), rng.integers(0, 2, count)
    features = rng.normal(size=(count, 4))
    features[:, 0] += 3 * color
    features[:, 1] += 3 * speed
    return features, {"color": color, "speed": speed}


def test_zero_on_average_for_clips_of_one_kind():
    values = [conditional_energy(*clips(seed), *clips(1000 + seed, 90)) for seed in range(30)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(30) + 1e-3
    assert min(values) < 0


def test_swapped_captions_are_seen_where_a_marginal_distance_is_blind():
    x, groups = clips(1)
    y, real = clips(2)
    wrong = {name: np.roll(index, 1) for name, index in groups.items()}
    assert conditional_energy(x, wrong, y, real) > conditional_energy(x, groups, y, real) + 0.5


def test_one_ignored_attribute_is_enough():
    x, groups = clips(3)
    y, real = clips(4)
    x[:, 1] = np.random.default_rng(5).permutation(x[:, 1])
    assert conditional_energy(x, groups, y, real) > 0.2


def test_a_group_counts_by_its_share_and_not_by_its_pairs():
    a, b, share = np.array([0, 0, 1]), np.array([0, 1, 1, 1]), np.array([0.5, 0.5])
    weights = group_weights(a, b, share, within=False)
    assert weights[:2, 0].sum() == pytest.approx(0.5)
    assert weights[2, 1:].sum() == pytest.approx(0.5)
    assert group_weights(a, a, share, within=True).diagonal().sum() == 0


def test_groups_of_one_clip_are_left_out():
    x = np.random.default_rng(6).normal(size=(3, 2))
    groups = {"digit": np.array([0, 1, 2])}
    assert conditional_energy(x, groups, x + 9, groups) == 0.0


def free_captions(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Features that follow the caption's embedding; captions 0…19 in turn, the same for every seed."""
    text = np.random.default_rng(99).normal(size=(20, 3))[np.arange(count) % 20]
    noise = np.random.default_rng(seed).normal(size=(count, 3))
    return 3 * text + noise, text


def test_free_captions():
    same = [kernel_energy(*free_captions(seed), *free_captions(500 + seed)) for seed in range(20)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(20) + 1e-3
    x, text = free_captions(1)
    assert kernel_energy(x, np.roll(text, 1, axis=0), *free_captions(2)) > max(same) + 0.3
