import pytest

from harness.comparison.declaration import load_declaration
from harness.comparison.long_video import block_ends, by_segment, long_video
from harness.comparison.results import read_results

NAME = "two_stage_vs_one_stage"


def long_of(world) -> dict | None:
    return long_video(read_results(load_declaration(NAME, world.root), world.root))


def test_cards_without_a_long_evaluation_have_none(world):
    assert long_of(world) is None


def test_every_seed_of_every_arm_is_kept(long_world):
    long = long_of(long_world)
    assert (long["frames"], long["clips"], long["segment_frames"]) == (141, 64, 33)
    assert long["segments"]["start"] == [0, 36, 72, 108]
    assert long["segments"]["student"]["one_stage"]["2"]["fvd"] == [52.0, 62.0, 72.0, 82.0]
    assert long["segments"]["init"]["two_stage"]["1"]["fvd"] == [61.0, 81.0, 101.0, 121.0]
    assert long["segments"]["real"] == {"fvd": [18.0, 19.0, 20.0, 21.0]}
    assert {arm: len(series) for arm, series in long["by_frame"]["ink"].items()} == {"two_stage": 3, "one_stage": 3}
    assert long["by_frame"]["identity"]["two_stage"][2][100] == pytest.approx(0.9 - 0.02 - 0.1)
    assert (long["switch"]["at"], long["switch"]["delay_cap"]) == (72, 69)
    assert list(long["switch"]["obeyed"]["two_stage"]) == ["0", "1", "2"]


def test_one_start_of_all_arms_is_known(long_world):
    assert long_of(long_world)["common_init"] is True

    def change(card):
        card["models"]["init"]["long"]["segments"][2]["metrics"]["fvd"] += 1

    long_world.edit(f"{NAME}/one_stage/seed1/cards.json", change)
    assert long_of(long_world)["common_init"] is False


def test_an_arm_that_lacks_it_is_left_out(world):
    world.write_long(NAME, {"two_stage": 1.0})
    long = long_of(world)
    assert list(long["segments"]["student"]) == list(long["cache"]) == ["two_stage"]
    assert long["common_init"] is False


def test_an_arm_needs_it_for_every_seed(long_world):
    long_world.edit(f"{NAME}/two_stage/seed1/cards.json", lambda card: card["models"]["student"].pop("long"))
    assert list(long_of(long_world)["segments"]["student"]) == ["one_stage"]


def test_cache_by_length_of_the_video(long_world):
    cache = long_of(long_world)["cache"]
    assert cache["one_stage"]["frame"] == [9, 21, 33, 45, 57, 69, 81, 93, 105, 117, 129, 141]
    assert cache["one_stage"]["mib"]["0"][-1] == pytest.approx(3.6)
    assert cache["two_stage"]["mib"]["0"][-1] == pytest.approx(0.9)


def test_a_given_frame_is_before_the_first_block(long_world):
    for seed in (0, 1, 2):
        long_world.edit(
            f"{NAME}/one_stage/seed{seed}/manifest.json",
            lambda m: m["config"]["rollout"].update(image_conditioning="both"),
        )
    cache = long_of(long_world)["cache"]
    assert (cache["one_stage"]["frame"][0], cache["two_stage"]["frame"][0]) == (13, 9)


def test_the_last_block_may_be_shorter():
    assert block_ends(141, 8, 5) == [17, 37, 57, 77, 97, 117, 137, 141]
    assert block_ends(141, 12, 3, given=1)[:2] == [13, 25]
    assert block_ends(141, 12, 3, given=1)[-2:] == [133, 141]


def test_what_cannot_be_measured_is_absent(long_world):
    for arm in ("two_stage", "one_stage"):
        for seed in (0, 1, 2):

            def change(card):
                for model in ("student", "init"):
                    del card["models"][model]["long"]["switch"]
                    del card["models"][model]["long"]["cache_mib"]
                    del card["models"][model]["long"]["by_frame"]["identity"]

            long_world.edit(f"{NAME}/{arm}/seed{seed}/cards.json", change)
    long = long_of(long_world)
    assert "switch" not in long
    assert long["cache"] == {}
    assert "identity" not in long["by_frame"]


def test_metrics_of_some_segments_only_are_none():
    assert by_segment([{"fvd": 1.0, "ink": 2.0}, {"fvd": 3.0}]) == {"fvd": [1.0, 3.0]}
