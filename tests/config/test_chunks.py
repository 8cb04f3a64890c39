import random

import pytest

from harness.config.chunks import chunk_lengths, mean_sequence, switch_places
from harness.config.schema import LongTuningConfig


def test_the_first_chunk_is_a_clip_and_the_later_ones_are_whole_blocks_that_fit():
    assert list(chunk_lengths(0, 9, 3, LongTuningConfig(enabled=True, max_frames=33, min_new_frames=6))) == [9]
    tuning = LongTuningConfig(enabled=True, max_frames=33, min_new_frames=3)
    assert list(chunk_lengths(9, 9, 3, tuning)) == [3, 6, 9]
    assert list(chunk_lengths(26, 9, 3, tuning)) == [3, 6]
    assert list(chunk_lengths(30, 9, 3, tuning)) == [3]
    assert not chunk_lengths(31, 9, 3, tuning)
    assert list(chunk_lengths(0, 9, 3, LongTuningConfig(enabled=True, max_frames=9, min_new_frames=9))) == [9]


def test_a_prompt_changes_after_the_first_chunk_and_before_the_end():
    assert list(switch_places(9, 3, LongTuningConfig(enabled=True, max_frames=33, min_new_frames=6))) == [
        9,
        12,
        15,
        18,
        21,
        24,
        27,
    ]
    assert not switch_places(9, 3, LongTuningConfig(enabled=True, max_frames=14, min_new_frames=6))


def test_the_mean_of_a_sequence():
    assert mean_sequence(9, 3, LongTuningConfig(enabled=True, max_frames=9, min_new_frames=6)) == (1, 9)
    assert mean_sequence(9, 3, LongTuningConfig(enabled=True, max_frames=18, min_new_frames=9)) == (2, 18)
    # 9, then 6 (and no more) or 9
    assert mean_sequence(9, 3, LongTuningConfig(enabled=True, max_frames=18, min_new_frames=6)) == (2, 16.5)
    tuning, rng, seen = LongTuningConfig(enabled=True, max_frames=240, min_new_frames=6), random.Random(0), []
    for _ in range(2000):
        made, chunks = 0, 0
        while lengths := chunk_lengths(made, 21, 3, tuning):
            made, chunks = made + rng.choice(lengths), chunks + 1
        seen.append((chunks, made))
    chunks, frames = mean_sequence(21, 3, tuning)
    assert chunks == pytest.approx(sum(c for c, _ in seen) / len(seen), rel=0.01)
    assert frames == pytest.approx(sum(f for _, f in seen) / len(seen), rel=0.01)


def test_a_very_long_sequence_has_a_mean_too():
    chunks, frames = mean_sequence(21, 3, LongTuningConfig(enabled=True, max_frames=6000, min_new_frames=18))
    assert frames / chunks == pytest.approx(19.5, rel=0.01)


def test_new_frames_may_be_bounded_from_above():
    tuning = LongTuningConfig(enabled=True, max_frames=33, min_new_frames=3, max_new_frames=6)
    assert list(chunk_lengths(0, 9, 3, tuning)) == [9]
    assert list(chunk_lengths(9, 9, 3, tuning)) == [3, 6]
    assert list(chunk_lengths(30, 9, 3, tuning)) == [3]
