import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from harness.errors import HarnessError
from harness.evaluation.media import animation, enlarge, film_strip, save_video, scale_for


@pytest.fixture
def video() -> np.ndarray:
    """Nine frames, each brighter than the one before."""
    frames = np.arange(9, dtype=np.uint8) * 25 + 20
    return np.broadcast_to(frames[:, None, None, None], (9, 24, 32, 3)).copy()


def frames_of(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_every_frame_comes_back(video, tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    save_video(path, video, fps=8)
    frames = iio.imread(path, plugin="FFMPEG") if kind == "mp4" else frames_of(path)
    assert frames.shape[:3] == (9, 24, 32)
    levels = frames[..., :3].mean((1, 2, 3))
    assert np.abs(levels - video.mean((1, 2, 3))).max() < 4


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animations_loop_at_the_right_pace(video, tmp_path, kind):
    (tmp_path / "clip").write_bytes(animation(video, 8, kind))
    with Image.open(tmp_path / "clip") as image:
        assert image.is_animated
        assert image.info["loop"] == 0
        image.seek(1)
        image.load()
        assert abs(image.info["duration"] - 125) <= 5


def test_webp_is_lossless_and_the_same_every_time(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    data = animation(noise, 8, "webp")
    (tmp_path / "clip.webp").write_bytes(data)
    assert np.array_equal(frames_of(tmp_path / "clip.webp"), noise)
    assert animation(noise, 8, "webp") == data


def test_png_is_a_film_strip(video, tmp_path):
    save_video(tmp_path / "clip.png", video, 8)
    assert iio.imread(tmp_path / "clip.png").shape == (24, 9 * 32, 3)
    assert film_strip(video, columns=3).shape == (24, 96, 3)


def test_odd_sizes_become_even_in_mp4(video, tmp_path):
    save_video(tmp_path / "clip.mp4", video[:, :23, :31], 8)
    assert iio.imread(tmp_path / "clip.mp4", plugin="FFMPEG").shape[1:3] == (22, 30)


def test_enlarging_repeats_pixels(video):
    large = enlarge(video[:, :2, :2], 4)
    assert large.shape == (9, 8, 8, 3)
    assert [scale_for(24, 24), scale_for(100, 60), scale_for(480, 832)] == [4, 2, 1]


def test_another_suffix_is_refused(video, tmp_path):
    with pytest.raises(HarnessError, match=r"clip\.avi: cannot write \.avi; expected one of \.webp"):
        save_video(tmp_path / "clip.avi", video, 8)
    assert not list(tmp_path.iterdir())
