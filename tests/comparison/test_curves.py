import pytest

from harness.comparison.curves import common_budget, curve_of, curve_table, interpolate
from harness.comparison.declaration import load_declaration
from harness.comparison.results import read_results


@pytest.fixture
def curves(world):
    declaration = load_declaration("two_stage_vs_one_stage", world.root)
    arms = read_results(declaration, world.root).arms
    return {(arm, seed): curve_of(arm, seed, result) for arm, seeds in arms.items() for seed, result in seeds.items()}


def test_parents_count_but_the_shared_teacher_does_not(curves):
    assert curves[("two_stage", 0)].before == {"teraflops": 80.0, "device_seconds": 40.0}
    assert curves[("one_stage", 0)].before == {"teraflops": 0.0, "device_seconds": 0.0}
    assert curves[("two_stage", 0)].last("teraflops") == 280.0


def test_equal_compute_is_what_every_run_reached(curves):
    assert common_budget(curves.values(), "teraflops") == 200.0
    assert curves[("one_stage", 1)].at("teraflops", 200.0, "fvd") == pytest.approx(62.5)
    # two_stage, seed 0 falls from 61 to 51 over 80…280 TFLOP: at 200 it has done 0.6 of the way
    assert curves[("two_stage", 0)].at("teraflops", 200.0, "fvd") == pytest.approx(55.0)
    assert curves[("two_stage", 0)].at("teraflops", 79.0, "fvd") is None


def test_interpolation_never_extrapolates():
    points = [(0.0, 1.0), (2.0, 5.0), (2.0, 6.0), (4.0, 0.0)]
    assert interpolate(points, 1.0) == pytest.approx(3.0)
    assert interpolate(points, 3.0) == pytest.approx(3.0)
    assert interpolate(points, 4.0) == 0.0
    assert interpolate(points, 4.1) is None
    assert interpolate([], 1.0) is None


def test_table_has_every_reading_and_blanks_for_what_was_not_measured(curves):
    lines = curve_table(curves.values(), ["fvd", "precision"]).splitlines()
    assert lines[0] == "arm,seed,update,teraflops,device_seconds,fvd,precision"
    assert len(lines) == 1 + 6 * 5
    assert lines[1] == "two_stage,0,0,80,40,61,"
