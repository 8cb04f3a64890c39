import math
import random

import pytest
from scipy import stats

from harness.comparison.statistics import (
    Interval,
    holm,
    intervals_apart,
    mean_interval,
    more_seeds,
    paired_differences,
    sign_flip_p,
    smallest_sign_flip_p,
    t_test_p,
    verdict,
)


def test_interval_is_students():
    values = [1.0, 2.0, 4.0]
    found = mean_interval(values, 0.95)
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((7 / 3, low, high, 3))


def test_t_interval_covers_what_it_claims_at_three_seeds_and_a_bootstrap_would_not():
    rng, trials, inside, bootstrap = random.Random(0), 4000, 0, 0
    for _ in range(trials):
        sample = [rng.gauss(0.3, 2.0) for _ in range(3)]
        found = mean_interval(sample)
        inside += found.low <= 0.3 <= found.high
        means = sorted((a + b + c) / 3 for a in sample for b in sample for c in sample)  # all 27 resamples
        bootstrap += means[0] <= 0.3 <= means[-1]
    assert inside / trials == pytest.approx(0.95, abs=0.012)
    assert bootstrap / trials < 0.80


def test_one_value_has_no_interval():
    assert mean_interval([3.0]) == Interval(3.0, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_pairing_needs_the_same_seeds():
    assert paired_differences({1: 5.0, 0: 3.0}, {0: 1.0, 1: 1.0}) == [2.0, 4.0]
    with pytest.raises(ValueError, match="seeds differ"):
        paired_differences({0: 1.0}, {1: 1.0})


def test_t_test_agrees_with_scipy():
    values = [0.4, 1.1, 0.7, -0.2]
    assert t_test_p(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert t_test_p([1.0]) is None
    assert t_test_p([0.0, 0.0]) == 1.0
    assert t_test_p([2.0, 2.0]) == 0.0


def test_sign_flips_are_exact():
    assert sign_flip_p([1.0, 2.0, 3.0]) == pytest.approx(0.25)
    assert sign_flip_p([1.0, 2.0, -3.0]) == pytest.approx(1.0)
    assert sign_flip_p([0.1] * 6) == pytest.approx(2 / 64)  # rounding must not lose the tie
    assert [smallest_sign_flip_p(n) for n in (1, 3, 5, 6)] == [1.0, 0.25, 0.0625, 0.03125]


def test_holm_known_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, None, 0.9]) == [pytest.approx(0.04), None, pytest.approx(0.9)]
    assert holm([0.02, None, 0.3], others=1) == [pytest.approx(0.06), None, pytest.approx(0.6)]


def test_tests_that_only_count_never_make_holm_bolder():
    rng = random.Random(0)
    for _ in range(200):
        p_values = [rng.random() ** 3 for _ in range(6)]
        whole = holm(p_values)[:4]
        assert all(a >= b for a, b in zip(holm(p_values[:4], others=2), whole))


@pytest.mark.parametrize(
    ("low", "high", "p", "outcome", "words"),
    [
        (3.0, 7.0, 0.01, "supported", "wholly above 2"),
        (0.5, 7.0, 0.01, "supported", "its mean reaches 2"),
        (0.5, 7.0, 0.20, "undecided", "after Holm"),
        (0.2, 3.0, 0.01, "undecided", "mean gain is below 2"),
        (-1.0, 7.0, 0.30, "undecided", "contains both"),
        (-1.0, 1.5, 0.50, "not supported", "excludes a gain of 2"),
        (0.5, 1.5, 0.01, "not supported", "excludes a gain of 2"),
        (-5.0, -1.0, 0.01, "not supported", "reversed"),
    ],
)
def test_verdict(low, high, p, outcome, words):
    found = verdict(Interval((low + high) / 2, low, high, 3), p, smallest_effect=2.0, family=4)
    assert found.outcome == outcome
    assert words in found.reason


def test_one_seed_decides_nothing():
    assert verdict(Interval(50.0, None, None, 1), None, 1.0).outcome == "undecided"


def test_more_seeds_counts_seeds_until_the_interval_leaves_zero():
    gain = mean_interval([1.0, 3.0, -1.0])  # mean 1, standard deviation 2
    expected = next(n for n in range(4, 99) if stats.t.ppf(0.975, n - 1) * 2 / math.sqrt(n) < 1)
    assert more_seeds(gain) == f"about {expected} seeds would tell"


def test_apart():
    a, b = Interval(1.0, 0.0, 2.0, 3), Interval(4.0, 3.0, 5.0, 3)
    assert intervals_apart(a, b) is intervals_apart(b, a) is True
    assert intervals_apart(a, Interval(2.0, 1.9, 3.0, 3)) is False
    assert intervals_apart(a, Interval(2.0, None, None, 1)) is None


def test_holm_keeps_any_false_claim_rare_and_plain_tests_do_not():
    rng, trials, hypotheses, level = random.Random(1), 1500, 5, 0.05
    plain = adjusted = 0
    for _ in range(trials):
        shared = [rng.gauss(0.0, 0.5) for _ in range(3)]  # hypotheses of one experiment share its seeds
        p_values = [t_test_p([s + rng.gauss(0.0, 1.0) for s in shared]) for _ in range(hypotheses)]
        plain += any(p < level for p in p_values if p is not None)
        adjusted += any(p < level for p in holm(p_values) if p is not None)
    assert plain / trials > 0.12
    assert adjusted / trials < level + 0.012


def test_holm_holds_beside_true_effects_too():
    rng, trials, level, false = random.Random(2), 1500, 0.05, 0
    for _ in range(trials):
        true = [t_test_p([40.0 + rng.gauss(0.0, 1.0) for _ in range(3)]) for _ in range(3)]
        none = [t_test_p([rng.gauss(0.0, 1.0) for _ in range(3)]) for _ in range(2)]
        false += any(p < level for p in holm(true + none)[3:] if p is not None)
    assert 0.02 < false / trials < level + 0.012  # with the true ones out of the way, the level is used
