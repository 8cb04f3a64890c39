import numpy as np
import pytest
from scipy import stats

from harness.evaluation.intervals import Estimate, bootstrap_mean, jackknife, pooled


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        estimate = bootstrap_mean(np.random.default_rng(seed).normal(size=60))
        hits += estimate.low < 0 < estimate.high
    assert 0.88 < hits / 200 <= 0.99


def test_bootstrap_is_seeded():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values).value == pytest.approx(values.mean())


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=240)
    estimate = jackknife(lambda index: {"mean": float(values[index].mean())}, 240)["mean"]
    assert estimate.value == pytest.approx(values.mean())
    expected = 2.2 * values.std(ddof=1) / np.sqrt(240)  # t of 11 degrees of freedom
    assert 0.5 * expected < estimate.high - estimate.value < 1.7 * expected


def test_jackknife_is_right_on_average():
    """The factor (g − 1)/g is not visible in one estimate."""
    widths = []
    for seed in range(100):
        values = np.random.default_rng(seed).normal(size=24)
        found = jackknife(lambda index, values=values: {"mean": float(values[index].mean())}, 24, groups=4)["mean"]
        widths.append(((found.high - found.value) / stats.t.ppf(0.975, 3)) ** 2)
    assert np.mean(widths) == pytest.approx(1 / 24, rel=0.2)


def test_jackknife_keeps_a_value_that_smaller_sets_lack():
    found = jackknife(lambda index: {"n": 1.0} if len(index) == 30 else {}, 30)
    assert found == {"n": Estimate(1.0, 1.0, 1.0)}


def test_repeats_narrow_the_interval():
    one = Estimate(2.0, 1.0, 4.0)
    four = pooled([one] * 4)
    assert (four.value, four.low, four.high) == pytest.approx((2.0, 1.5, 3.0))


def test_units_and_ranges():
    assert Estimate(2.0, 1.0, 3.0).scaled(0.5) == Estimate(1.0, 0.5, 1.5)
    assert Estimate(0.9, -0.2, 1.3).clipped(0, 1) == Estimate(0.9, 0, 1)
