import math

import pytest

from harness.comparison.compare import compare
from harness.comparison.declaration import load_declaration
from harness.comparison.drift import TeacherSpan, drifts, spread_over_seeds
from harness.comparison.results import read_results

NAME = "two_stage_vs_one_stage"


def comparison_of(world, name: str = NAME) -> dict:
    declaration = load_declaration(name, world.root)
    return compare(declaration, read_results(declaration, world.root))[0]


def test_mean_and_band_over_seeds_with_what_is_missing():
    found = spread_over_seeds("a", [0, 1, 2], [[1.0, None, None], [2.0, 5.0, None], [6.0, 7.0, None]])
    assert (found.mean[:2], found.low[:2], found.high[:2]) == ([3.0, 6.0], [1.0, 5.0], [6.0, 7.0])
    assert all(math.isnan(values[2]) for values in (found.mean, found.low, found.high))


def test_seeds_of_different_lengths_are_no_series():
    with pytest.raises(ValueError, match="shorter"):
        spread_over_seeds("a", [0, 1], [[1.0, 2.0], [1.0]])


def test_short_clips_drift_within_the_teachers_clip(world):
    (identity,) = drifts(comparison_of(world))
    assert (identity.metric, identity.trained, identity.beyond) == ("identity", 32, False)
    assert [arm.arm for arm in identity.arms] == ["two_stage", "one_stage"]
    first = identity.arms[0]
    values = [1 - fvd / 500 for fvd in (51.0, 52.0, 53.0)]
    assert (first.mean[0], first.low[0], first.high[0]) == pytest.approx((values[1], values[2], values[0]))
    assert first.mean[32] == pytest.approx(values[1] - 0.064)
    assert identity.teachers == [TeacherSpan(low=1 - 49 / 500 - 0.064, high=1 - 49 / 500)]
    assert identity.real[1][0] == 1 - 18 / 500


def test_long_clips_drift_beyond_it(long_world):
    found = {drift.metric: drift for drift in drifts(comparison_of(long_world))}
    assert list(found) == ["identity", "rigid_error", "ink", "fvd"]
    identity = found["identity"]
    assert (identity.trained, identity.beyond) == (32, True)
    assert (identity.arms[0].frame[-1], len(identity.arms[0].mean)) == (140, 141)
    assert identity.arms[1].mean[140] == pytest.approx(0.9 - 0.01 - 1.4)
    assert identity.teachers == [TeacherSpan(low=1 - 49 / 500 - 0.064, high=1 - 49 / 500)]
    assert len(identity.real[0]) == 33
    assert found["ink"].teachers == []
    assert found["ink"].real is None


def test_the_distance_by_segment_is_drawn_in_the_middle_of_each(long_world):
    fvd = drifts(comparison_of(long_world))[-1]
    assert fvd.arms[0].frame == [16, 52, 88, 124]
    assert (fvd.arms[1].mean, fvd.arms[1].low[3], fvd.arms[1].high[3]) == ([51.0, 61.0, 71.0, 81.0], 80.0, 82.0)
    assert [(t.low, t.high, t.arm) for t in fvd.teachers] == [(pytest.approx(48.51), pytest.approx(49.49), None)]
    assert fvd.real == ([16, 52, 88, 124], [18.0, 19.0, 20.0, 21.0])
    assert fvd.label == "Fréchet video distance by segment"


def test_an_arm_without_long_clips_keeps_its_short_ones(world):
    world.write_long(NAME, {"two_stage": 1.0})
    identity = drifts(comparison_of(world))[0]
    assert [len(arm.mean) for arm in identity.arms] == [141, 33]


def test_different_teachers_have_the_arms_that_they_teach(image_world):
    (identity,) = drifts(comparison_of(image_world, "i2v_vs_t2v"))
    assert [(span.high, span.arm) for span in identity.teachers] == [(1 - 49 / 500, "t2v"), (1 - 40 / 500, "i2v")]
    (identity,) = drifts(comparison_of(image_world, "i2v_conditioning"))
    assert [(span.high, span.arm) for span in identity.teachers] == [(1 - 40 / 500, None)]
