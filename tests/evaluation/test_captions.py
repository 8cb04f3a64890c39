import numpy as np
import pytest

from harness.data.digits import COLORS
from harness.evaluation.captions import (
    color_right,
    digit_right,
    direction_right,
    direction_shown,
    hue,
    motion_error,
    speed_right,
    tracked_velocity,
)


def steady(dy: float, dx: float, frames: int = 17) -> np.ndarray:
    """Displacements `[1, frames − 1, 2]` of uniform motion."""
    return np.tile(np.array([dy, dx]), (1, frames - 1, 1))


def test_hue_of_known_colors():
    degrees, purity = hue(np.array([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0.5], [0.5, 0.5, 0.5]]))
    assert degrees[:5] == pytest.approx([0, 60, 120, 240, 330])
    assert purity == pytest.approx([1, 1, 1, 1, 1, 0])


def test_color_does_not_mind_brightness_but_minds_hue_and_gray():
    names = list(COLORS)
    colors = np.array([COLORS[name] for name in names])
    assert color_right(0.1 * colors, names).all()
    assert not color_right(colors, names[1:] + names[:1]).any()
    assert not color_right(np.full((1, 3), 0.5), ["red"]).any()


def test_digit_is_read_over_all_frames():
    probabilities = np.zeros((1, 4, 10))
    probabilities[0, :3, 7], probabilities[0, 3, 1] = 1, 1
    assert digit_right(probabilities, [7]).all()
    assert not digit_right(probabilities, [1]).any()


@pytest.mark.parametrize(
    ("motion", "direction", "speed"),
    [
        ((0, -0.5), "left", "slowly"),
        ((0, 1.0), "right", "quickly"),
        ((-1.1, 0.2), "up", "quickly"),
        ((0.6, 0), "down", "slowly"),
    ],
)
def test_motion_as_captioned(motion, direction, speed):
    path = steady(*motion)
    assert tracked_velocity(path)[0] == pytest.approx(motion)
    for name in ("left", "right", "up", "down"):
        assert direction_right(path, [name])[0] == (name == direction)
    for name in ("slowly", "quickly"):
        assert speed_right(path, [name])[0] == (name == speed)


def test_any_motion_is_right_where_the_caption_leaves_the_direction_open():
    assert direction_right(steady(0, -0.5), ["somewhere"])[0]
    assert not direction_right(steady(0, 0.1), ["somewhere"])[0]
    assert direction_shown(np.concatenate([steady(0, -0.5), steady(0.7, 0.1), steady(0, 0)])).tolist() == [
        "left",
        "down",
        "",
    ]


@pytest.mark.parametrize("motion", [(0.5, 0.5), (-0.7, 0.7), (1.0, -1.0), (-0.4, -0.4)])
def test_between_two_directions_is_neither_of_them(motion):
    path = steady(*motion)
    assert direction_shown(path).tolist() == [""]
    assert not any(direction_right(path, [name])[0] for name in ("left", "right", "up", "down"))
    assert direction_right(path, ["somewhere"])[0]  # it moves
    assert direction_shown(steady(motion[0], 1.01 * motion[1])).tolist() != [""]


def test_standing_still_and_racing_are_no_motion():
    assert not direction_right(steady(0, 0.1), ["right"])[0]
    assert not speed_right(steady(0, 0.1), ["slowly"])[0]
    assert not speed_right(steady(0, 3.0), ["quickly"])[0]


def test_unsteady_motion_has_no_speed():
    path = steady(0, 0.5)
    path[0, ::2, 1] += 3
    path[0, 1::2, 1] -= 3
    assert motion_error(path)[0] == pytest.approx(3.0)
    assert not speed_right(path, ["slowly"])[0]
    assert motion_error(steady(0, 0.5))[0] == pytest.approx(0)


def test_jitter_that_a_codec_makes_is_allowed():
    path = steady(0, 0.5) + np.random.default_rng(0).normal(scale=0.3, size=(1, 16, 2))
    assert speed_right(path, ["slowly"])[0]
    assert direction_right(path, ["right"])[0]
