"""Files that are written frame by frame: nothing lost, nothing changed, and no name before the end."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image, ImageSequence

from harness.errors import HarnessError
from harness.pipeline.video_writer import FFmpegWriter, writer_for


def noise(frames: int, height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def gray(frames: int) -> np.ndarray:
    levels = np.arange(frames, dtype=np.uint8) * 20 + 20
    return np.broadcast_to(levels[:, None, None, None], (frames, 16, 24, 3)).copy()


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_every_frame_comes_back_in_its_place(tmp_path, kind):
    path, video = tmp_path / "new" / f"clip.{kind}", np.concatenate([gray(9), gray(9)[-1:]])  # the last one twice
    with writer_for(path, 8, 10) as writer:
        for start, end in ((0, 1), (1, 5), (5, 10)):
            writer.write(video[start:end])
            assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    frames = iio.imread(path, plugin="FFMPEG") if kind == "mp4" else read(path)
    assert frames.shape == (10, 16, 24, 3)
    assert np.abs(frames.mean((1, 2, 3)) - video.mean((1, 2, 3))).max() < 4


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animations_loop_at_the_right_pace(tmp_path, kind):
    with writer_for(tmp_path / f"clip.{kind}", 8, 3) as writer:
        writer.write(gray(3))
    with Image.open(tmp_path / f"clip.{kind}") as image:
        assert image.info["loop"] == 0
        image.seek(1)
        image.load()
        assert abs(image.info["duration"] - 125) <= 5


def test_webp_is_lossless_and_a_strip_has_the_right_frames(tmp_path):
    video = noise(20)
    for kind in ("webp", "png"):
        with writer_for(tmp_path / f"clip.{kind}", 8, 20) as writer:
            for start in range(0, 20, 7):
                writer.write(video[start : start + 7])
    assert np.array_equal(read(tmp_path / "clip.webp"), video)
    strip = iio.imread(tmp_path / "clip.png")
    wanted = np.linspace(0, 19, 9).round().astype(int)
    assert np.array_equal(strip, np.concatenate(list(video[wanted]), axis=1))


def test_an_odd_row_and_column_are_cut_of_an_mp4(tmp_path):
    with writer_for(tmp_path / "clip.mp4", 8, 2) as writer:
        writer.write(noise(2, 15, 23))
    assert iio.imread(tmp_path / "clip.mp4", plugin="FFMPEG").shape == (2, 14, 22, 3)


def test_an_interrupted_video_keeps_its_partial_name_and_can_be_seen(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"the old one")
    writer = FFmpegWriter(path, 8)

    def interrupted() -> None:
        with writer:
            writer.write(gray(5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"the old one"
    assert len(iio.imread(tmp_path / "clip.partial.mp4", plugin="FFMPEG")) == 5
    assert writer.stop() == tmp_path / "clip.partial.mp4"
    assert writer_for(path, 8, 1).stop() is None


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(HarnessError, match=r"clip\.avi: cannot write \.avi; expected \.mp4, \.gif"):
        writer_for(tmp_path / "clip.avi", 8, 1)
    with pytest.raises(HarnessError, match="a video without a frame"), writer_for(tmp_path / "clip.mp4", 8, 1):
        pass
    (tmp_path / "clip.partial.mp4").mkdir()
    writer = FFmpegWriter(tmp_path / "clip.mp4", 8)
    with pytest.raises(HarnessError, match=r"clip\.mp4: cannot be written \(.*Is a directory.*free space"):
        writer.write(noise(1000))
    assert not (tmp_path / "clip.mp4").exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HarnessError, match="cannot be written"):
        writer_for(tmp_path / "file" / "clip.mp4", 8, 1).write(gray(1))


def test_a_file_that_ffmpeg_could_not_end_gets_no_name(tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text('#!/bin/sh\nfor last; do :; done\ncat > "$last"\necho "No space left on device" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(fake))
    writer = writer_for(tmp_path / "clip.mp4", 8, 2)
    writer.write(gray(2))
    with pytest.raises(HarnessError, match=r"clip\.mp4: cannot be written \(No space left on device\)"):
        writer.finish()
    assert not (tmp_path / "clip.mp4").exists()
