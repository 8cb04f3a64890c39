"""Moving digits: exact motion, disjoint splits, held-out captions."""

from collections import Counter

import numpy as np
import pytest
from attrs import evolve

from harness.config.schema import DataConfig, Splits
from harness.data.digits import (
    ANY_DIRECTION,
    COLORS,
    DIRECTIONS,
    SPEEDS,
    Attributes,
    draw_attributes,
    iter_clips,
    render,
)
from harness.errors import HarnessError

RIGHT = Attributes(digit=7, color="red", direction="right", moves="right", speed="quickly", image=7, held_out=False)
SMALL = DataConfig(source="moving_digits", height=24, width=24, frames=9, clips=Splits(train=12, validation=4, test=8))


def gray(attributes: Attributes, frames: int = 25) -> np.ndarray:
    return render(attributes, frames=frames, height=24, width=24).max(-1).astype(int)


@pytest.mark.parametrize("moves", DIRECTIONS)
def test_whole_pixel_motion_is_exact(moves):
    video = gray(evolve(RIGHT, moves=moves))
    dy, dx = DIRECTIONS[moves]
    for frame in (1, 5, 24):
        wanted = np.roll(video[0], (dy * frame, dx * frame), (0, 1))
        assert np.abs(video[frame] - wanted).max() <= 1  # rounding to 8 bits


def test_a_clip_goes_on_as_long_as_one_likes():
    whole = render(RIGHT, frames=60, height=24, width=24)
    assert np.array_equal(render(RIGHT, frames=9, height=24, width=24, start=40), whole[40:49])
    assert not np.array_equal(whole[40:49], whole[:9])


def test_slow_motion_is_half_a_pixel_per_frame():
    slow, quick = gray(evolve(RIGHT, speed="slowly")), gray(RIGHT)
    assert np.abs(slow[::2][:12] - quick[:12]).max() <= 1
    assert np.abs(slow[1] - slow[0]).max() > 10


def test_the_caption_does_not_move_the_digit():
    assert (gray(RIGHT) == gray(evolve(RIGHT, direction=ANY_DIRECTION))).all()
    assert evolve(RIGHT, direction=ANY_DIRECTION).caption == "a red 7 moving somewhere quickly"


@pytest.mark.parametrize("color", COLORS)
def test_color_is_as_captioned(color):
    mean = render(evolve(RIGHT, color=color), frames=1, height=24, width=24).reshape(-1, 3).astype(float).mean(0)
    assert np.allclose(mean / mean.max(), np.array(COLORS[color]) / max(COLORS[color]), atol=0.03)


def test_no_handwriting_is_in_two_splits():
    images = {split: {a.image for a in draw_attributes(split, 2000, 0)} for split in ("train", "validation", "test")}
    assert not images["train"] & images["validation"]
    assert not images["train"] & images["test"]
    assert not images["validation"] & images["test"]
    assert len(images["train"]) > 1000


def test_held_out_captions_are_in_no_training_caption():
    train = {a.caption for a in draw_attributes("train", 4000, 0)}
    held_out = {a.caption for a in draw_attributes("test", 1000, 0) if a.held_out}
    assert len(held_out) == 48
    assert not held_out & train
    assert not any(a.held_out and a.direction == ANY_DIRECTION for a in draw_attributes("test", 1000, 0, 1.0))


def test_captions_are_balanced_and_a_share_leaves_the_direction_open():
    assert all(a.direction == a.moves for a in draw_attributes("train", 500, 0))
    drawn = draw_attributes("train", 272 * 8, 0, open_directions=0.5)
    shown = Counter((a.digit, a.color, a.moves, a.speed) for a in drawn)
    assert set(shown.values()) == {8}
    assert 0.45 < np.mean([a.direction == ANY_DIRECTION for a in drawn]) < 0.55
    assert all(a.direction in (a.moves, ANY_DIRECTION) for a in drawn)


def test_images_show_the_captioned_digit():
    from sklearn.datasets import load_digits

    target = load_digits().target
    assert all(target[a.image] == a.digit for a in draw_attributes("validation", 300, 3))


def test_same_seed_same_clips_other_seed_others():
    first, second = (list(iter_clips(SMALL, "train")) for _ in range(2))
    assert all(a.caption == b.caption and (a.video == b.video).all() for a, b in zip(first, second, strict=True))
    other = list(iter_clips(evolve(SMALL, seed=1), "train"))
    assert [a.caption for a in first] != [b.caption for b in other]
    assert first[0].video.shape == (9, 24, 24, 3)
    assert first[0].video.dtype == np.uint8


def test_speeds_differ():
    assert SPEEDS["quickly"] == 2 * SPEEDS["slowly"]


def test_unknown_split():
    with pytest.raises(HarnessError, match="expected train, validation or test"):
        draw_attributes("dev", 1, 0)
