import imageio.v2 as imageio
import numpy as np
import pytest

from harness.config.schema import DataConfig, Splits
from harness.data.problems import Report
from harness.data.videos import VideoError, find_sources, iter_split_clips, read_video
from harness.errors import HarnessError


def pattern(frames, height, width):
    """Red on the left half, blue on the right; brightness rises with time."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    level = np.linspace(60, 255, frames).astype(np.uint8)[:, None, None]
    video[:, :, : width // 2, 0] = level
    video[:, :, width // 2 :, 2] = level
    return video


def save(path, video, fps=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        imageio.mimsave(path, list(video), duration=1000 / fps, loop=0)
    else:
        codec = {".webm": "libvpx"}.get(path.suffix, "libx264")
        imageio.mimsave(path, list(video), fps=fps, codec=codec, macro_block_size=2)
    return path


def looks_right(video):
    left, right = (
        video[:, :, : video.shape[2] // 2 - 2].mean((1, 2)),
        video[:, :, video.shape[2] // 2 + 2 :].mean((1, 2)),
    )
    return bool((left[:, 0] > 3 * left[:, 2]).all() and (right[:, 2] > 3 * right[:, 0]).all())


@pytest.mark.parametrize(
    ("suffix", "height", "width"), [(".mp4", 40, 96), (".webm", 96, 40), (".gif", 37, 51), (".mp4", 8, 8)]
)
def test_any_size_and_container(tmp_path, suffix, height, width):
    path = save(tmp_path / f"v{suffix}", pattern(9, height, width))
    video = read_video(path, frames=9, fps=8, height=16, width=24)
    assert video.shape == (9, 16, 24, 3)
    assert video.dtype == np.uint8
    assert looks_right(video)
    assert video[-1].mean() > 2 * video[0].mean()


def test_the_crop_is_central_and_keeps_the_aspect(tmp_path):
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:, 32:64] = 255  # the middle third, exactly the square that is kept
    path = save(tmp_path / "v.gif", np.repeat(frame[None], 5, 0))
    video = read_video(path, frames=5, fps=8, height=16, width=16)
    assert video[:, :, 2:-2].min() > 200


@pytest.mark.parametrize(("source_fps", "source_frames"), [(24, 48), (8, 16), (4, 8)])
def test_frames_are_resampled_by_time(tmp_path, source_fps, source_frames):
    path = save(tmp_path / "v.mp4", pattern(source_frames, 16, 16), fps=source_fps)
    level = read_video(path, frames=13, fps=8, height=16, width=16)[:, :, 1:6, 0].mean((1, 2))
    expected = 60 + (255 - 60) * 1.5 * source_fps / (source_frames - 1)  # frame 12 at 8 per second shows time 1.5 s
    assert level[12] == pytest.approx(expected, abs=8)


def test_too_few_frames_says_how_many(tmp_path):
    path = save(tmp_path / "v.mp4", pattern(5, 16, 16))
    with pytest.raises(VideoError, match="5 frames at 8 per second, 9 needed") as caught:
        read_video(path, frames=9, fps=8, height=16, width=16)
    assert caught.value.kind == "too_few_frames"


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "scrambled"])
def test_broken_video(tmp_path, damage):
    path = save(tmp_path / "v.mp4", np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    if damage == "scrambled":
        content[2000:9000] = bytes(7000)
    replacement = {
        "empty": b"",
        "text": b"not a video",
        "cut": bytes(content[: len(content) // 2]),
        "scrambled": content,
    }
    path.write_bytes(replacement[damage])
    with pytest.raises(VideoError) as caught:
        read_video(path, frames=16, fps=8, height=16, width=16)
    assert caught.value.kind == "broken"
    assert str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "videos"
    for i in range(4):
        save(folder / f"clip{i}.gif", pattern(5 + i, 16, 16))
    (folder / "clip0.txt").write_text("a caption\nover two lines\n")
    (folder / "captions.csv").write_text('file,caption\nclip1.gif,"red, then blue"\nclip2.gif,two\nclip3.gif,three\n')
    return folder


def names_of(folder):
    report = Report()
    return {source.name: source.caption for source in find_sources(folder, report)}, report


def test_captions_from_text_files_and_tables(folder):
    captions, report = names_of(folder)
    assert captions == {
        "clip0.gif": "a caption over two lines",
        "clip1.gif": "red, then blue",
        "clip2.gif": "two",
        "clip3.gif": "three",
    }
    assert not report.problems


def test_everything_left_out_is_named(folder):
    (folder / "clip0.txt").write_text("  \n")
    (folder / "captions.csv").write_text("file,caption\nclip1.gif,one\nclip1.gif,another\ngone.mp4,x\n../up.gif,x\n")
    (folder / "clip2.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "sub").mkdir()
    (folder / "sub" / "copy.gif").write_bytes((folder / "clip3.gif").read_bytes())
    for name in ("clip3.txt", "sub/copy.txt"):
        (folder / name).write_text("same")
    (folder / "notes.md").touch()
    (folder / ".hidden.mp4").touch()
    captions, report = names_of(folder)
    assert len(captions) == 1
    assert sorted((p.kind, p.item) for p in report.problems) == [
        ("duplicate", "sub/copy.gif"),
        ("empty_caption", "clip0.gif"),
        ("missing_video", "../up.gif"),
        ("missing_video", "gone.mp4"),
        ("no_caption", "clip2.gif"),
        ("two_captions", "clip1.gif"),
    ]
    assert report.ignored == ["notes.md"]


def test_a_text_file_and_a_row_that_disagree(folder):
    (folder / "clip1.txt").write_text("green")
    _, report = names_of(folder)
    assert [(p.kind, p.item) for p in report.problems] == [("two_captions", "clip1.gif")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name,text\na,b\n", "no column file, caption"),
        (b"file,caption\nclip0.gif,a cat, asleep\n", "line 2"),
        (b"file,caption\nclip0.gif\n", "line 2"),
        ("file,caption\nclip0.gif,é\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_unreadable_table(folder, content, expected):
    (folder / "captions.csv").write_bytes(content)
    with pytest.raises(HarnessError, match=expected):
        names_of(folder)


def test_no_folder_and_no_videos(tmp_path):
    with pytest.raises(HarnessError, match="no such folder"):
        names_of(tmp_path / "gone")
    with pytest.raises(HarnessError, match="no video in it"):
        names_of(tmp_path)


def test_splits_follow_the_content_not_the_names(folder, tmp_path):
    def split_of(source_folder):
        report, result = Report(), {}
        sources = find_sources(source_folder, report)
        config = DataConfig(
            source="videos", height=8, width=8, frames=5, clips=Splits(train=2, validation=1, test=1), path="x"
        )
        for split, count in (("test", 1), ("validation", 1), ("train", 2)):
            for clip in iter_split_clips(config, sources, split, count, report):
                result[clip.caption] = split
        return result

    before = split_of(folder)
    assert sorted(before.values()) == ["test", "train", "train", "validation"]
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    captions, _ = names_of(folder)
    for i, (name, caption) in enumerate(sorted(captions.items(), reverse=True)):
        (renamed / f"{i}.gif").write_bytes((folder / name).read_bytes())
        (renamed / f"{i}.txt").write_text(caption)
    assert split_of(renamed) == before
