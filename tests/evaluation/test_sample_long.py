"""`sample` beyond the length of training: several prompts, any length, written while it generates."""

import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml
from image_project import make_project, photo, target

from harness.errors import HarnessError
from harness.evaluation import sample as sample_module
from harness.evaluation.sample import sample
from harness.evaluation.sample_call import parser
from harness.io import write_json

PROMPT, OTHER = "a red 7 moving left slowly", "a blue 1 moving up quickly"
BOUNDED = ("--window", "3", "--sink", "1", "--rope", "relative")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    torch.set_num_threads(1)
    return make_project(tmp_path_factory.mktemp("long"))


def run(root, *arguments: str):
    return sample(parser().parse_intermixed_args([*arguments]), root)


def made(root, folder, *arguments: str) -> np.ndarray:
    out = folder / "clip.webp"
    run(root, *arguments, "--out", str(out))
    return iio.imread(out, index=..., plugin="pillow")[..., :3].astype(int)


def test_a_long_video_begins_as_the_trained_length_and_ends_as_asked(project, tmp_path):
    """3 latent frames of training are 9 frames, blocks have 1; only rounding differs where the VAE goes on."""
    short = made(project, tmp_path, target("none"), PROMPT)
    long = made(project, tmp_path, target("none"), PROMPT, "--frames", "31")
    longer = made(project, tmp_path, target("none"), PROMPT, "--frames", "38")
    assert (len(short), len(long), len(longer)) == (9, 31, 38)
    assert np.abs(long[:9] - short).max() <= 1
    assert np.array_equal(longer[:31], long)
    other = made(project, tmp_path, target("none"), PROMPT, "--frames", "31", "--seed", "1")
    assert np.abs(other[20:] - long[20:]).max() > 8
    assert np.abs(long[9:13] - long[13:17]).max() > 8  # every block has noise of its own


def test_a_prompt_takes_effect_at_the_next_block_and_says_so(project, tmp_path, capsys):
    """Blocks begin at frames 0, 1, 5, 9, 13, 17, …"""
    options = (target("none"), "--frames", "33", *BOUNDED)
    one = made(project, tmp_path, *options, "--prompt", f"0: {PROMPT}")
    assert np.array_equal(one, made(project, tmp_path, *options, PROMPT))
    capsys.readouterr()
    two = made(project, tmp_path, *options, "--prompt", f"0: {PROMPT}", "--prompt", f"14: {OTHER}")
    told = capsys.readouterr().err
    assert f'"{OTHER}", wanted from frame 14: takes effect at frame 17' in told
    assert "33 of 33 frames" in told
    assert np.array_equal(two[:17], one[:17])
    assert np.abs(two[17:21] - one[17:21]).max() > 0
    for way in ("keep", "clear", "recache"):
        third = made(
            project,
            tmp_path,
            *options,
            "--on-switch",
            way,
            "--prompt",
            f"0: {PROMPT}",
            "--prompt",
            f"14: {OTHER}",
        )
        assert np.array_equal(third[:17], one[:17])
        assert not np.array_equal(third[17:], two[17:]), way


def test_several_videos_of_one_schedule_from_a_picture(project, tmp_path):
    path = photo(tmp_path / "photo.png")
    cues = ("--prompt", f"0: {PROMPT}", "--prompt", f"10: {OTHER}")
    options = ("--image", str(path), "--number", "2", "--frames", "26", "--format", "webp")
    paths = run(project, target("both"), *cues, *options, "--out", str(tmp_path / "out"))
    assert [file.name for file in paths] == [f"a_red_7_moving_left_slowly_{i}.webp" for i in (0, 1)]
    videos = [iio.imread(file, index=..., plugin="pillow") for file in paths]
    assert videos[0].shape[0] == videos[1].shape[0] == 26
    assert np.array_equal(videos[0][0], videos[1][0])  # the picture
    assert not np.array_equal(videos[0][1:], videos[1][1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((target("none"), "--frames", "20", "--prompt", f"0: {PROMPT}", "--prompt", f"30: {OTHER}"), "last block"),
        ((target("none"), "--steps", "3", "--prompt", f"0: {PROMPT}"), "without --steps and --cfg-scale"),
        (("teacher", "--prompt", f"0: {PROMPT}"), "prompts with frames: teacher is sampled whole"),
        ((target("none"), "--prompt", f"3: {PROMPT}"), "the first prompt of a video is that of frame 0"),
        ((target("none"), PROMPT, "--window", "2", "--strict"), "--strict: not sampled\n.*window: trained with all"),
    ],
)
def test_what_cannot_be_made_is_told_before_anything_is(project, tmp_path, arguments, message):
    with pytest.raises(HarnessError, match=message):
        run(project, *arguments, "--out", str(tmp_path / "new"))
    assert not list(tmp_path.iterdir())


def test_what_differs_from_training_is_told(project, tmp_path, capsys):
    run(project, target("none"), PROMPT, "--out", str(tmp_path))
    assert capsys.readouterr().err == ""
    run(project, target("none"), PROMPT, "--frames", "33", "--sink", "1", "--out", str(tmp_path))
    told = capsys.readouterr().err
    head = f"differs from training (the configuration of {target('none')}): "
    assert f"{head}sink: trained 0 latent frames, asked 1 latent frames" in told
    assert f"{head}length: trained up to 9 frames, asked 33 frames: without a window" in told
    folder = project / "checkpoints" / target("none") / "model"
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)
    run(project, target("none"), PROMPT, "--weights", str(copy), "--out", str(tmp_path))
    assert "nothing there says what these weights were trained with" in capsys.readouterr().err


def test_what_a_run_was_trained_with_is_what_its_manifest_says(project, tmp_path, capsys):
    config = yaml.safe_load((project / "params.yaml").read_text())["presets"]["small"]["run"]
    config |= {"method": "dmd", "rollout": config["rollout"] | {"context_sigma": 0.25}}
    file = project / "results" / target("none") / "manifest.json"
    write_json(file, {"config": config})
    try:
        for weights in ((), ("--weights", str(project / "checkpoints" / target("none") / "model"))):
            run(project, target("none"), PROMPT, *weights, "--out", str(tmp_path))
            expected = f"(results/{target('none')}/manifest.json): context_sigma: trained 0.25, asked 0.0"
            assert expected in capsys.readouterr().err
    finally:
        file.unlink()


def test_an_interrupted_video_is_kept_under_another_name(project, tmp_path, monkeypatch, capsys):
    real = sample_module.made_blocks

    def interrupted(*arguments):
        for i, block in enumerate(real(*arguments)):
            if i == 4:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(sample_module, "made_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(project, target("none"), PROMPT, "--frames", "33", "--out", str(tmp_path / "clip.mp4"))
    assert [file.name for file in tmp_path.iterdir()] == ["clip.partial.mp4"]
    assert len(iio.imread(tmp_path / "clip.partial.mp4", plugin="FFMPEG")) == 13
    assert "the first 13 frames are in" in capsys.readouterr().err


PEAK = """
import resource, sys
from pathlib import Path
from harness.evaluation.sample import sample
from harness.evaluation.sample_call import parser
sample(parser().parse_intermixed_args(sys.argv[2:]), Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(project, tmp_path):
    """2,001 frames with three switches peak at most 1.1 times as high as 201 frames."""

    def peak(frames: int) -> int:
        cues = [f"{i * frames // 4}: {(PROMPT, OTHER)[i % 2]}" for i in range(4)]
        prompts = [option for cue in cues for option in ("--prompt", cue)]
        out = ("--out", str(tmp_path / f"{frames}.mp4"))
        command = [sys.executable, "-c", PEAK, str(project), target("none"), *prompts, *BOUNDED, *out]
        done = subprocess.run([*command, "--frames", str(frames)], check=True, capture_output=True, text=True)
        return int(done.stdout.split()[-1])

    short, long = peak(201), peak(2001)
    assert long <= 1.1 * short, (short, long)
    assert iio.improps(tmp_path / "2001.mp4", plugin="FFMPEG").shape[1:] == (96, 96, 3)
