import pytest

from harness.comparison.curves import common_budget, curve_of, curve_table, interpolate, with_gap
from harness.comparison.declaration import load_declaration
from harness.comparison.results import read_results


def read(world, name):
    results = read_results(load_declaration(name, world.root), world.root)
    return {(arm, seed): curve_of(results, arm, seed) for arm, seeds in results.arms.items() for seed in seeds}


@pytest.fixture
def curves(world):
    return read(world, "two_stage_vs_one_stage")


def test_the_own_teacher_is_nobodys_cost_and_a_causal_sft_on_images_is(image_world):
    found = read(image_world, "i2v_vs_t2v")
    assert {arm: found[(arm, 0)].before["teraflops"] for arm in ("t2v", "i2v")} == {"t2v": 0.0, "i2v": 0.0}
    assert common_budget(found.values(), "teraflops") == 200.0
    found = read(image_world, "i2v_conditioning")
    assert {curve.before["teraflops"] for curve in found.values()} == {80.0}
    assert {curve.before["device_seconds"] for curve in found.values()} == {40.0}


def test_what_an_image_teacher_started_from_is_nobodys_cost_either(image_world):
    def widened(manifest):
        manifest["parents"].append({**manifest["parents"][0], "target": "teacher"})
        manifest["parents"].append({**manifest["parents"][0], "target": "causal_sft/seed0"})

    image_world.edit("i2v_vs_t2v/i2v/seed0/manifest.json", widened)
    assert read(image_world, "i2v_vs_t2v")[("i2v", 0)].before["teraflops"] == 120.0  # of the causal SFT


def test_the_way_that_is_left_runs_from_the_first_reading_to_the_own_teacher(image_world):
    found = read(image_world, "i2v_vs_t2v")
    gaps = {key: [round(row["fvd_gap"], 6) for row in curve.rows] for key, curve in found.items()}
    assert gaps[("t2v", 0)] == [1.0, 0.875, 0.75, 0.625, 0.5]
    assert gaps[("i2v", 0)] == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert found[("i2v", 0)].at("teraflops", 110.0, "fvd_gap") == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("rows", "teacher"),
    [
        ([{"update": 0.0, "fvd": 60.0}], None),
        ([{"update": 0.0, "fvd": 40.0}, {"update": 10.0, "fvd": 30.0}], 40.0),
        ([{"update": 10.0, "fvd": 60.0}], 40.0),
        ([{"update": 0.0, "recall": 0.5}], 40.0),
    ],
)
def test_without_both_ends_there_is_no_way(rows, teacher):
    assert with_gap(rows, teacher) == rows


def test_readings_without_a_distance_stay_in_the_curve():
    rows = [{"update": 0.0, "fvd": 60.0}, {"update": 10.0}]
    assert with_gap(rows, 40.0) == [{"update": 0.0, "fvd": 60.0, "fvd_gap": 1.0}, {"update": 10.0}]


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
