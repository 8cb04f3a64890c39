import math

import numpy as np
import pytest
from made_up_runs import series
from scipy import stats

from harness.reference.band import LEVEL, band, bands, common_rows, independent_windows, window_means, window_starts
from harness.reference.leaving import compare_to_bands, leaving

ROWS = 100  # 20 windows of 5


def noise(rng, kind, runs):
    """Runs of one signal, `[runs, ROWS]`: the same curve (0) with other luck. The spread of a window is about 1."""
    white = rng.standard_normal((runs, ROWS)) * math.sqrt(5)
    own = rng.standard_normal((runs, 1))  # what a seed keeps for its whole run
    match kind:
        case "white":
            return white
        case "seeds part and stay apart":
            return own + 1e-3 * white
        case "half and half":
            return own + white
        case "walk":
            return np.cumsum(rng.standard_normal((runs, ROWS)), axis=1) / math.sqrt(ROWS) * 3 + 0.3 * white
        case "heavy tails":
            return rng.standard_t(3, (runs, ROWS)) * math.sqrt(5)
        case "growing":
            return white * np.linspace(0.1, 2.0, ROWS)
    raise AssertionError(kind)


KINDS = ("white", "seeds part and stay apart", "half and half", "walk", "heavy tails", "growing")
SIGNALS = 12


def alarms(kinds, seeds, trials, rng):
    """How often a run like the others leaves any band, of `SIGNALS` independent signals."""
    false = 0
    for _ in range(trials):
        values = [noise(rng, kinds[n % len(kinds)], seeds + 1) for n in range(SIGNALS)]
        runs = [{f"generator/s{n}": series(v[seed]) for n, v in enumerate(values)} for seed in range(seeds + 1)]
        false += bool(compare_to_bands(runs[0], bands(runs[1:])).left)
    return false / trials


def test_a_run_like_the_others_rarely_leaves_any_band():
    assert alarms(KINDS, 3, 60, np.random.default_rng(1)) <= 0.10


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_false_alarms_whatever_seeds_are_like(kind, seeds):
    assert alarms([kind], seeds, 400, np.random.default_rng(0)) <= 0.10


def test_three_readings_of_quality_are_held_to_the_same_level():
    rng, trials, false = np.random.default_rng(2), 80, 0
    for _ in range(trials):
        runs = [{f"quality/q{n}": series(rng.normal() + np.zeros(5)) for n in range(SIGNALS)} for _ in range(4)]
        false += bool(compare_to_bands(runs[0], bands(runs[1:])).left)
    assert 0.01 <= false / trials <= 0.10  # the level is used, not hidden in a band without end


def test_a_shift_of_the_size_of_a_row_is_seen_at_its_update():
    rng = np.random.default_rng(3)
    runs = [{"generator/loss": series(row)} for row in rng.standard_normal((3, ROWS))]
    faulty = rng.standard_normal(ROWS) + 4.0 * (np.arange(ROWS) >= 60)
    (found,) = compare_to_bands({"generator/loss": series(faulty)}, bands(runs)).left
    assert found.update == 61


def test_one_window_is_students_prediction_interval():
    values = [1.0, 2.0, 4.0]
    found = band([series([v]) for v in values], level=0.05)
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * math.sqrt(4 / 3)
    assert (found.centre[0], found.half_width[0], found.freedom) == pytest.approx((7 / 3, half, 2))


def test_the_level_is_shared_by_the_windows_that_tell_something_new():
    rows = np.random.default_rng(0).standard_normal((3, ROWS))
    found = band([series(row) for row in rows], 0.05)
    means = rows.reshape(3, 20, 5).mean(axis=2)
    variance = means.var(axis=0, ddof=1)
    near = np.array([variance[max(0, k - 2) : k + 3].mean() for k in range(20)])
    new = independent_windows(means - means.mean(axis=0), near)
    assert new > 8
    assert found.freedom == pytest.approx(2 * (1 + (new - 1) / 3))
    t = stats.t.ppf(1 - 0.05 / 2 / new, found.freedom)
    assert (found.half_width >= t * np.sqrt(4 / 3 * np.maximum(near, variance.mean())) * (1 - 1e-9)).all()


def test_the_level_is_shared_by_the_signals():
    rng = np.random.default_rng(0)
    runs = [{f"generator/s{n}": series(rng.normal(size=3)) for n in range(10)} for _ in range(3)]
    together, alone = bands(runs)["generator/s0"], band([run["generator/s0"] for run in runs], LEVEL / 10)
    assert together.half_width == pytest.approx(alone.half_width)


def test_seeds_that_agree_by_luck_make_no_narrow_band():
    rows = np.random.default_rng(0).standard_normal((3, ROWS))
    window = rows.reshape(3, 20, 5)
    lucky = (window - window.mean(axis=2, keepdims=True)).reshape(3, ROWS)  # every window of every seed has mean 0
    found = band([series(row) for row in lucky], 0.05)
    noise_of_a_window = 1 / math.sqrt(5)
    assert (found.half_width > 2 * noise_of_a_window).all()


def test_a_quiet_window_has_the_spread_of_the_whole_signal():
    rows = np.random.default_rng(0).standard_normal((3, ROWS))
    rows[:, :50] *= 1e-6
    found = band([series(row) for row in rows], 0.05)
    assert found.half_width[0] > 0.5 * found.half_width[-1]


def test_independent_windows():
    rng = np.random.default_rng(0)
    white, kept = rng.standard_normal((3, 20)), np.repeat(rng.standard_normal((3, 1)), 20, axis=1)
    white, kept = white - white.mean(0), kept - kept.mean(0)
    assert independent_windows(kept, np.ones(20)) == pytest.approx(1.0, abs=0.05)
    assert independent_windows(white, np.ones(20)) > 8
    assert independent_windows(white[:, :5], np.ones(5)) == 1.0
    assert independent_windows(0 * white, np.ones(20)) == 1.0


def test_what_seeds_cannot_change_is_held_to_the_tolerance():
    rng = np.random.default_rng(0)
    start = {"quality/a": 5.0, "quality/b": 0.25, "quality/c": 1.0}

    def run(**other):
        first = {**start, **other}
        later = {name: rng.normal(size=4) for name in ("quality/a", "quality/b")} | {"quality/c": np.ones(4)}
        return {name: series([first[name], *later[name]], start=0, step=10) for name in start}

    found = bands([run() for _ in range(3)])
    assert found["quality/a"].half_width[0] < 0.01 < 1 < found["quality/a"].half_width[1]
    assert found["quality/c"].half_width == pytest.approx(1e-3)  # it never varies, so its tolerance is all there is
    (left,) = compare_to_bands(run(**{"quality/b": 0.26}), found).left
    assert (left.signal, left.update) == ("quality/b", 0)


def test_one_signal_that_agrees_by_chance_is_not_fixed():
    runs = [{"quality/a": series([9.0 + n, n, n]), "quality/b": series([0.5, n, -n])} for n in range(3)]
    assert bands(runs)["quality/b"].half_width[0] > 1.0


def test_learning_rates_are_held_exactly():
    runs = [{"generator/lr": series([1e-3] * 40)} for _ in range(3)]
    assert not compare_to_bands({"generator/lr": series([1e-3] * 40)}, bands(runs)).left
    assert compare_to_bands({"generator/lr": series([1.01e-3] * 40)}, bands(runs)).left


def test_windows():
    assert window_starts(np.arange(1, 101)).tolist() == list(range(1, 101, 5))
    assert window_starts(np.array([0, 25, 50])).tolist() == [0, 25, 50]
    assert len(window_starts(np.arange(1, 42))) == 14  # of three rows: never more than 20 windows
    means = window_means(np.array([1, 2, 11]), np.array([1.0, 3.0, 7.0]), np.array([1, 6, 11]))
    assert means.tolist()[::2] == [2.0, 7.0]
    assert math.isnan(means[1])


def test_rows_that_all_have_and_that_are_numbers():
    a, b = series([1, 2, float("nan"), 4]), series([1, 2, 3, 4], start=2)
    assert [run.clock.tolist() for run in common_rows([a, b])] == [[2, 4], [2, 4]]


def test_one_run_is_no_reference():
    with pytest.raises(ValueError, match="at least two"):
        bands([{"generator/loss": series([1.0])}])


def test_leaving_needs_two_windows_or_one_far_out():
    rows = np.random.default_rng(0).standard_normal((3, ROWS))
    found = band([series(row) for row in rows], 0.05)

    def moved(by, windows):
        value = np.repeat(found.centre, 5)
        for k in windows:
            value[5 * k : 5 * k + 5] += by * found.half_width[k]
        return leaving("generator/loss", series(value), found)

    assert moved(1.5, [7]) is None
    assert moved(1.5, [7, 9]) is None
    assert moved(0.9, range(20)) is None
    two = moved(1.5, [7, 8])
    assert (two.update, two.last_update, two.windows, two.of) == (36, 40, 2, 20)
    assert two.far == pytest.approx(1.5)
    assert moved(-2.5, [7]).update == 36
    opposite = np.repeat(found.centre, 5)
    opposite[35:40] += 1.5 * found.half_width[7]
    opposite[40:45] -= 1.5 * found.half_width[8]
    assert leaving("generator/loss", series(opposite), found) is None


def test_a_value_that_is_no_number_leaves_at_its_own_row():
    found = band([series(row) for row in np.random.default_rng(0).standard_normal((3, ROWS))], 0.05)
    value = np.zeros(ROWS)
    value[52] = float("nan")
    left = leaving("generator/loss", series(value), found)
    assert (left.update, left.batch) == (53, 53)
    assert math.isnan(left.value)


def test_a_short_run_and_a_thinned_one_are_compared_on_what_they_have():
    rng = np.random.default_rng(5)
    runs = [{"generator/loss": series(row)} for row in rng.standard_normal((3, ROWS))]
    limits = bands(runs)
    short = compare_to_bands({"generator/loss": series(np.zeros(23))}, limits)
    assert short.stayed == ("generator/loss",)
    assert leaving("generator/loss", series(np.full(23, 9.0)), limits["generator/loss"]).of == 5
    thinned = compare_to_bands({"generator/loss": series(np.zeros(10), start=10, step=10)}, limits)
    assert thinned.stayed == ("generator/loss",)
    late = compare_to_bands({"generator/loss": series([1.0], start=500)}, limits)
    assert late.missing == ("generator/loss",)


def test_the_first_to_leave_comes_first_and_what_lacks_is_named():
    rng = np.random.default_rng(6)
    names = ("generator/a", "generator/b", "generator/c")
    limits = bands([{name: series(rng.standard_normal(ROWS)) for name in names} for _ in range(3)])
    late, early = np.zeros(ROWS), np.zeros(ROWS)
    late[80:], early[20:] = 9.0, 9.0
    found = compare_to_bands({"generator/a": series(late), "generator/b": series(early)}, limits)
    assert [left.signal for left in found.left] == ["generator/b", "generator/a"]
    assert (found.missing, found.stayed) == (("generator/c",), ())
