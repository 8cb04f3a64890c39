import imageio.v3 as iio
import numpy as np
from small_project import webp

from harness.tracking.mp4 import SMALLEST, read_animation, write_mp4


def test_an_animated_image_is_read_whole(tmp_path):
    (tmp_path / "a.webp").write_bytes(webp(3))
    frames, fps = read_animation(tmp_path / "a.webp")
    assert np.array_equal(frames, np.random.default_rng(3).integers(0, 255, (3, 12, 16, 3), np.uint8))
    assert fps == 8.0


def test_odd_sizes_are_cut(tmp_path):
    write_mp4(tmp_path / "a.mp4", np.zeros((2, 51, 97, 3), np.uint8), 8.0)
    assert iio.imread(tmp_path / "a.mp4", plugin="FFMPEG").shape == (2, 50, 96, 3)


def test_small_clips_are_enlarged(tmp_path):
    video = np.zeros((4, 11, 33, 3), np.uint8)
    video[:, :, 16:] = 255
    write_mp4(tmp_path / "a.mp4", video, 8.0)
    read = iio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert read.shape == (4, 22, 66, 3)
    assert 66 <= SMALLEST < 66 * 2
    assert read[:, :, :28].mean() < 20
    assert read[:, :, 40:].mean() > 235
