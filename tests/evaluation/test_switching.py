"""Clips over a prompt switch: obeyed at once, late, in passing, not at all, and with the object lost."""

import numpy as np
import pytest
import torch
from attrs import evolve
from digit_world import SIZE, World
from torch import Tensor

from harness.data.digits import DIRECTIONS, SPEEDS, Attributes, render
from harness.evaluation import tracking
from harness.evaluation.evaluators import unit_range
from harness.evaluation.switching import HELD, TURNED, Switched, delays, turned

BEFORE, AFTER, LENGTH = 8, 40, 17
CLIPS = 48
KEPT = 0.9  # of the identity, where the object is kept


def test_an_object_turns_by_a_quarter_and_stays_the_same():
    assert set(TURNED) == set(TURNED.values()) == set(DIRECTIONS)
    for direction, new in TURNED.items():
        assert np.dot(DIRECTIONS[direction], DIRECTIONS[new]) == 0
    attributes = {"digit": 3, "color": "red", "direction": "left", "moves": "left", "speed": "slowly", "image": 7}
    assert turned(attributes) == attributes | {"direction": "up", "moves": "up"}
    open_one = turned(attributes | {"direction": "somewhere", "moves": "down"})
    assert (open_one["direction"], open_one["moves"]) == ("left", "left")  # a new prompt says where


def test_the_delay_is_the_first_frame_from_which_it_holds():
    count = 30
    late = np.arange(count) >= 11
    passing = np.zeros(count, bool)
    passing[3 : 3 + HELD - 1] = True
    held = np.zeros(count, bool)
    held[3 : 3 + HELD] = True
    near_the_end = np.arange(count) >= count - 2
    obeyed = np.stack([np.ones(count, bool), late, passing, held, near_the_end, np.zeros(count, bool), passing | late])
    assert delays(obeyed).tolist() == [0, 11, count, 3, count - 2, count, 11]


def moving(world: World, directions: list[list[str]]) -> Tensor:
    """Every clip's object, at each frame in the direction named for it, at its own speed."""
    clips = []
    for a, path in zip(world.attributes, directions, strict=False):
        still = unit_range(render(Attributes(**a), frames=1, height=SIZE, width=SIZE)[None])
        steps = np.array([DIRECTIONS.get(name, (0, 0)) for name in path]) * SPEEDS[a["speed"]]
        steps[0] = 0
        places = SIZE / 2 - torch.from_numpy(steps.cumsum(0)).float()[None]
        clips.append(tracking.centered(still.expand(-1, -1, len(path), -1, -1), places).clamp(0, 1))
    return torch.cat(clips)


def switched(world: World, video: Tensor) -> Switched:
    digits = world.evaluators.measure(video * 2 - 1).digits
    assert digits is not None
    wanted = [turned(a)["direction"] for a in world.attributes[: len(video)]]
    return Switched(digits=digits, before=BEFORE, wanted=wanted)


def path(attributes: dict, turn_at: int | None, new: str | None = None) -> list[str]:
    """In the first direction, from `turn_at` frames after the switch on in the new one."""
    old = [attributes["moves"]] * (BEFORE + AFTER)
    if turn_at is None:
        return old
    return old[: BEFORE + turn_at] + [new or turned(attributes)["direction"]] * (AFTER - turn_at)


@pytest.fixture(scope="module")
def videos(world) -> dict[str, Tensor]:
    attributes = world.attributes[:CLIPS]

    def turning(turn_at: int | None, new: str | None = None) -> Tensor:
        return moving(world, [path(a, turn_at, new) for a in attributes])

    passing = [path(a, 4)[: BEFORE + 8] + path(a, None)[: AFTER - 8] for a in attributes]
    back = [path(a, 4)[: BEFORE + 24] + path(a, None)[: AFTER - 24] for a in attributes]
    at_once = turning(0)
    after = torch.arange(BEFORE + AFTER)[None, None, :, None, None] >= BEFORE
    return {
        "at once": at_once,
        "6 frames late": turning(6),
        "20 frames late": turning(20),
        "ignored": turning(None),
        "stands still": turning(0, "nowhere"),
        "in passing": moving(world, passing),
        "obeyed, then forgotten": moving(world, back),
        "another object": torch.where(after, at_once.roll(1, 0), at_once),
        "object lost": torch.where(after, torch.zeros_like(at_once), at_once),
    }


@pytest.fixture(scope="module")
def found(world, videos) -> dict[str, Switched]:
    return {name: switched(world, video) for name, video in videos.items()}


@pytest.fixture(scope="module")
def values(found) -> dict[str, dict[str, float]]:
    return {
        name: {metric: float(value.mean()) for metric, value in clips.per_clip(LENGTH).items()}
        for name, clips in found.items()
    }


def test_a_switch_that_is_obeyed_at_once_is_perfect(values, found):
    assert values["at once"]["switch_delay"] < 0.5
    assert values["at once"]["switch_obeyed"] == 1
    assert values["at once"]["switch_identity"] > KEPT
    assert found["at once"].after == AFTER
    assert found["at once"].obeyed().shape == (CLIPS, AFTER)


@pytest.mark.parametrize("late", [6, 20])
def test_the_delay_is_measured_without_bias(values, found, late):
    assert values[f"{late} frames late"]["switch_delay"] == pytest.approx(late, abs=1)
    assert values[f"{late} frames late"]["switch_obeyed"] == 1
    curve = found[f"{late} frames late"].obeyed().mean(0)
    assert curve[: late - 2].max() == 0
    assert curve[late + 2 :].min() == 1


@pytest.mark.parametrize("fault", ["ignored", "stands still"])
def test_a_new_prompt_that_is_not_obeyed(values, found, fault):
    assert values[fault]["switch_delay"] == AFTER
    assert values[fault]["switch_obeyed"] == 0
    assert found[fault].obeyed()[:, 4:].mean() == 0


def test_what_passes_is_not_obeyed(values):
    assert values["in passing"]["switch_delay"] == AFTER
    assert values["in passing"]["switch_obeyed"] == 0
    assert values["obeyed, then forgotten"]["switch_delay"] == pytest.approx(4, abs=1)
    assert values["obeyed, then forgotten"]["switch_obeyed"] == 0


def test_no_motion_and_a_tie_of_two_directions_obey_nothing(found):
    """Whichever of the two directions is wanted."""
    digits = found["at once"].digits
    still, diagonal = np.zeros_like(digits.displacements), np.full_like(digits.displacements, 0.7)
    for displacements in (still, diagonal, diagonal * [1, -1], -diagonal):
        for wanted in DIRECTIONS:
            clips = Switched(digits=evolve(digits, displacements=displacements), before=BEFORE, wanted=[wanted] * CLIPS)
            assert not clips.obeyed().any()
            assert not clips.per_clip(LENGTH)["switch_obeyed"].any()
            assert (clips.per_clip(LENGTH)["switch_delay"] == AFTER).all()


@pytest.mark.parametrize("fault", ["another object", "object lost"])
def test_an_object_that_is_lost_at_the_switch(values, fault):
    assert values[fault]["switch_identity"] < values["at once"]["switch_identity"] - 0.6


def test_another_object_may_obey_and_the_same_object_may_not(values):
    """Each metric is blind to what the others see."""
    assert values["another object"]["switch_identity"] < 0.5
    assert values["ignored"]["switch_identity"] > KEPT
    assert values["20 frames late"]["switch_identity"] > KEPT


def test_the_end_is_as_long_as_a_training_clip_and_never_before_the_switch(found):
    late = found["20 frames late"]
    assert late.per_clip(15)["switch_obeyed"].mean() == 1
    whole, longer = late.per_clip(AFTER), late.per_clip(10 * AFTER)
    assert all(np.array_equal(whole[name], longer[name]) for name in whole)
