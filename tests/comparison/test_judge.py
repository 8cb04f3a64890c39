import pytest

from harness.comparison.compare import compare
from harness.comparison.curves import STOPWATCH
from harness.comparison.declaration import load_declaration
from harness.comparison.judge import adjust, gain, strongest_baseline
from harness.comparison.results import read_results

NAME = "two_stage_vs_one_stage"


def verdicts(world, name=NAME) -> dict:
    declaration = load_declaration(name, world.root)
    comparison, _ = compare(declaration, read_results(declaration, world.root))
    return {h["name"]: h for h in comparison["hypotheses"]}


def test_gain_is_positive_for_the_better_one_in_every_direction():
    assert gain("fvd", 50.0, 60.0) == 10.0
    assert gain("recall", 0.5, 0.75) == -0.25
    assert gain("ink", 1.25, 0.5) == 0.25


def test_supported_at_equal_updates_and_at_equal_compute(world):
    h = verdicts(world)["two_stages_help"]
    assert h["on"]["updates"]["outcome"] == "supported"
    assert h["on"]["updates"]["gains"] == pytest.approx([11.0, 10.5, 11.0])
    # at 200 TFLOP the two stages are at 55, 55.8 and 56.6
    assert h["on"]["teraflops"]["budget"] == 200.0
    assert h["on"]["teraflops"]["gains"] == pytest.approx([7.0, 6.7, 7.4])
    assert h["summary"] == "supported at equal generator updates and at equal measured compute"


def test_a_claim_may_hold_on_one_axis_only(world):
    # both arms end as before, but one_stage had the cheaper updates: at its last reading two_stage has hardly begun
    world.write_arms(
        fvd={"two_stage": [51.0, 52.0, 53.0], "one_stage": [56.0, 57.1, 58.0]},
        init={"one_stage": 70.0, "two_stage": 90.0},
    )
    h = verdicts(world)["two_stages_help"]
    assert h["on"]["updates"]["outcome"] == "supported"
    assert h["on"]["teraflops"]["outcome"] == "not supported"
    assert h["summary"] == "supported at equal generator updates; not supported at equal measured compute"


def test_not_supported(world):
    world.write_arms(fvd={"two_stage": [60.0, 60.2, 60.1], "one_stage": [60.1, 60.2, 60.0]})
    h = verdicts(world)["two_stages_help"]
    assert h["on"]["updates"]["outcome"] == "not supported"
    assert "excludes a gain of 2" in h["on"]["updates"]["reason"]


def test_undecided(world):
    world.write_arms(fvd={"two_stage": [50.0, 60.0, 57.0], "one_stage": [60.0, 59.0, 61.0]})
    h = verdicts(world)["two_stages_help"]
    assert h["on"]["updates"]["outcome"] == "undecided"
    assert "seeds would tell" in h["on"]["updates"]["reason"]


def test_baselines_are_the_strongest_of_their_kind(world):
    found = verdicts(world)
    assert found["beats_the_cut_teacher"]["against"] == "teacher_cut_cfg"
    assert found["beats_causal_sft"]["against"] == "causal_sft"
    world.edit("teacher/cards.json", lambda c: c["models"]["teacher_cut"]["metrics"]["fvd"].update(value=50.0))
    assert verdicts(world)["beats_the_cut_teacher"]["against"] == "teacher_cut"


def test_a_baseline_with_more_forwards_than_the_student_is_no_fair_one(world):
    assert verdicts(world)["beats_the_cut_teacher"]["against"] == "teacher_cut_cfg"
    world.edit("teacher/cards.json", lambda c: c["models"]["teacher_cut_cfg"]["sampler"].update(forwards=4))
    assert verdicts(world)["beats_the_cut_teacher"]["against"] == "teacher_cut"


def test_strongest_follows_the_direction_of_the_metric(world):
    declaration = load_declaration(NAME, world.root)
    results = read_results(declaration, world.root)
    assert strongest_baseline(results, "two_stage", "causal_sft", "recall", 0.95).model == "causal_sft"
    assert strongest_baseline(results, "two_stage", "causal_sft", "precision", 0.95) is None


def test_beating_a_baseline_needs_the_intervals_apart(world):
    def blur(card):
        card["models"]["teacher_cut_cfg"]["metrics"]["fvd"].update(value=60.0, low=40.0, high=80.0)

    assert verdicts(world)["beats_the_cut_teacher"]["on"]["updates"]["outcome"] == "supported"
    world.edit("teacher/cards.json", blur)
    on = verdicts(world)["beats_the_cut_teacher"]["on"]["updates"]
    assert (on["outcome"], on["apart"]) == ("undecided", False)
    assert "overlap" in on["reason"]


def test_an_init_that_no_seed_trained_has_the_interval_of_its_evaluation(world):
    for seed in (0, 1, 2):
        entry = {"value": 125.0, "low": 120.0, "high": 130.0}
        world.edit(
            f"{NAME}/one_stage/seed{seed}/cards.json",
            lambda card, entry=entry: card["models"]["init"]["metrics"].update(fvd=entry),
        )
    results = read_results(load_declaration(NAME, world.root), world.root)
    interval = strongest_baseline(results, "one_stage", "own_init", "fvd", 0.95).interval
    assert (interval.low, interval.high, interval.n) == (120.0, 130.0, 1)


def test_unequal_measured_budgets_decide_nothing(world):
    world.edit(f"{NAME}/one_stage/seed1/manifest.json", lambda m: m["updates"].update(generator=39))
    found = verdicts(world)
    assert found["two_stages_help"]["on"]["updates"]["outcome"] == "undecided"
    assert "generator_updates from 39 to 40" in found["two_stages_help"]["on"]["updates"]["reason"]
    assert found["beats_its_init"]["on"]["updates"]["outcome"] == "supported"


def test_compute_spent_before_the_arm_began_is_said(world):
    def dear(manifest):
        manifest["parents"][1]["compute"]["teraflops"] = 900.0

    for seed in (0, 1, 2):
        world.edit(f"{NAME}/two_stage/seed{seed}/manifest.json", dear)
    on = verdicts(world)["two_stages_help"]["on"]["teraflops"]
    assert on["outcome"] == "undecided"
    assert "arm two_stage was still in the stages before its own training" in on["reason"]


def test_a_metric_missing_from_a_card_decides_nothing(world):
    world.edit(f"{NAME}/one_stage/seed1/cards.json", lambda c: c["models"]["student"]["metrics"].pop("fvd"))
    on = verdicts(world)["two_stages_help"]["on"]["updates"]
    assert (on["outcome"], on["reason"]) == ("undecided", "fvd is not on the cards of every seed")


def test_p_values_are_adjusted_over_all_tests_of_the_experiment(world):
    found = verdicts(world).values()
    tests = [on for h in found for on in h["on"].values() if on["gain"]]
    assert len(tests) == 4 + 2  # four hypotheses at equal updates, one of them on both measured axes too
    smallest = min(tests, key=lambda on: on["p_t"])
    assert smallest["p_holm"] == pytest.approx(6 * smallest["p_t"])
    assert all(6 * on["p_t"] >= on["p_holm"] >= on["p_t"] for on in tests)


def test_a_stopwatch_decides_nothing_on_the_other_axes(world):
    """The gain in seconds is made as sure or as doubtful as can be: nothing changes beside its own axis."""

    def others():
        return {
            (name, axis): on for name, h in verdicts(world).items() for axis, on in h["on"].items() if axis != STOPWATCH
        }

    before, seconds = others(), verdicts(world)["two_stages_help"]["on"][STOPWATCH]["p_t"]
    world.edit(f"{NAME}/two_stage/seed1/manifest.json", lambda m: m["parents"][1]["compute"].update(device_seconds=1e3))
    assert verdicts(world)["two_stages_help"]["on"][STOPWATCH].get("p_t") != seconds
    assert others() == before
    p_values, timed = [0.012, 0.02, 0.3], [False, False, True]
    assert len({adjust([*p_values[:2], p], timed)[0][0] for p in (1e-6, 0.011, 0.9, None)}) == 1
    assert adjust(p_values, timed) == ([pytest.approx(0.036), pytest.approx(0.04), pytest.approx(0.3)], 3)


def test_the_share_of_the_way_is_judged_on_both_axes(image_world):
    h = verdicts(image_world, "i2v_vs_t2v")["an_image_speeds_up"]
    assert h["on"]["updates"]["outcome"] == "supported"
    assert h["on"]["updates"]["gains"] == pytest.approx([0.3, 0.5 + 0.5 / 76 - 16.5 / 80, 0.5 + 1 / 76 - 17 / 80])
    # image to video has spent 220 TFLOP at its end: at 200 it has done ten elevenths of its way
    assert h["on"]["teraflops"]["budget"] == 200.0
    assert h["on"]["teraflops"]["gains"][0] == pytest.approx(0.5 - (1 - 0.8 * 10 / 11))
    assert h["summary"] == "supported at equal generator updates and at equal measured compute"


def test_an_arm_is_held_against_its_own_teacher(image_world):
    results = read_results(load_declaration("i2v_vs_t2v", image_world.root), image_world.root)
    sides = {arm: strongest_baseline(results, arm, "cut_teacher", "fvd", 0.95) for arm in results.arms}
    assert {arm: side.interval.value for arm, side in sides.items()} == {"t2v": 98.0, "i2v": 80.0}
    assert strongest_baseline(results, "i2v", "causal_sft", "fvd", 0.95) is None
    assert strongest_baseline(results, "i2v", "own_init", "fvd", 0.95).interval.value == 120.0


def test_ways_to_give_the_image_reach_verdicts(image_world):
    found = verdicts(image_world, "i2v_conditioning")
    assert {name: h["on"]["updates"]["outcome"] for name, h in found.items()} == {
        "both_beat_channels": "supported",
        "both_beat_first_latent": "supported",
        "both_keep_the_image": "supported",
        "both_beat_their_init": "supported",
        "both_beat_the_cut_teacher": "supported",
    }
    assert found["both_beat_channels"]["on"]["teraflops"]["outcome"] == "supported"
    assert found["both_beat_the_cut_teacher"]["against"] == "teacher_cut_cfg"
    assert found["both_beat_the_cut_teacher"]["on"]["updates"]["gains"] == pytest.approx([28.0, 27.5, 27.0])


def test_long_clips_are_judged_between_arms_and_against_the_own_init(world):
    world.edit_declaration(lambda d: d["hypotheses"][1].update(than="own_init"), "sink")
    world.write_sink({"sink": [60.0, 61.0, 62.5], "no_sink": [80.0, 82.0, 82.0]})
    found = verdicts(world, "sink")
    on = found["a_sink_beats_none"]["on"]
    assert on["updates"]["gains"] == pytest.approx([20.0, 21.0, 19.5])
    assert on["updates"]["outcome"] == "supported"
    assert on["teraflops"]["reason"] == "long_fvd was not measured during training"
    own = found["a_sink_keeps_identity"]
    assert (own["against"], own["on"]["updates"]["outcome"]) == ("init", "supported")
    assert own["on"]["updates"]["gains"] == pytest.approx([35 / 500, 35 / 500, 34.5 / 500])


def test_an_arm_that_goes_on_worse_than_it_started_is_told(world):
    world.edit_declaration(lambda d: d["hypotheses"][0].update(than="own_init"), "sink")
    world.write_sink({"sink": [99.0, 100.0, 101.5], "no_sink": [80.0, 82.0, 82.0]})
    on = verdicts(world, "sink")["a_sink_beats_none"]["on"]["updates"]
    assert on["outcome"] == "not supported"
    assert on["gain"]["value"] == pytest.approx(-(4.0 + 4.0 + 4.5) / 3)
