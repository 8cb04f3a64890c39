import numpy as np
import pytest

from harness.evaluation.identity import identity_by_frame, image_identity_by_frame, opening


def test_one_handwriting_is_one_and_another_is_zero():
    first, second = np.eye(4)[0], np.eye(4)[1]
    clip = np.stack([first] * 8 + [second] * 4)[None]
    curve = identity_by_frame(clip)
    assert curve.shape == (1, 12)
    assert curve[0, :8] == pytest.approx(1)
    assert curve[0, 8:] == pytest.approx(0)


def test_it_is_measured_from_the_first_quarter_and_not_from_the_mean():
    drift = np.linspace(0, np.pi / 2, 12)
    curve = identity_by_frame(np.stack([np.cos(drift), np.sin(drift)], axis=-1)[None])[0]
    assert curve[0] > 0.98
    assert (np.diff(curve[2:]) < 0).all()
    assert curve[-1] < 0.2


def test_frames_of_a_longer_clip_are_measured_from_its_opening():
    first, second = np.eye(4)[0], np.eye(4)[1]
    begun = np.stack([first] * 8)[None]
    later = np.stack([second] * 4 + [first] * 4)[None]
    assert identity_by_frame(later, opening(begun))[0].tolist() == [0] * 4 + [1] * 4
    assert np.linalg.norm(opening(np.stack([[first, first, second, second] * 2]))) == pytest.approx(1)
    assert opening(np.stack([[first] * 2 + [second] * 6])).tolist() == [first.tolist()]  # the first quarter alone


def test_the_image_is_the_measure_and_not_the_clips_own_start():
    image, other = np.eye(4)[:2], np.eye(4)[2]
    clip = np.stack([np.stack([image[0], image[0], other]), np.stack([other, other, image[1]])])
    assert image_identity_by_frame(clip, image).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert identity_by_frame(clip)[1].tolist() == [1, 1, 0]  # consistent, but not with its image
