import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml
from attrs import evolve
from image_project import FRAMES, SIZE, make_project, photo, target

from harness.errors import HarnessError
from harness.evaluation import sample as sample_module
from harness.evaluation.sample import main, sample
from harness.evaluation.sample_call import choose_sampler, file_name, output_paths, parser
from harness.io import read_json, write_json
from harness.pipeline import CausalWanPipeline


def run(root, *arguments: str):
    return sample(parser().parse_intermixed_args([*arguments]), root)


KINDS = [("toy/low/seed0", "webp"), ("teacher", "gif"), ("causal_sft/seed0", "png")]
PROMPTS = ("a red 7 moving left slowly", "a blue 1 moving up quickly")


@pytest.mark.parametrize(("target", "kind"), KINDS)
def test_a_video_per_prompt_and_number(root, tmp_path, target, kind):
    paths = run(root, target, *PROMPTS, "--number", "2", "--format", kind, "--out", str(tmp_path))
    assert [path.name for path in paths] == [
        f"a_red_7_moving_left_slowly_0.{kind}",
        f"a_red_7_moving_left_slowly_1.{kind}",
        f"a_blue_1_moving_up_quickly_2.{kind}",
        f"a_blue_1_moving_up_quickly_3.{kind}",
    ]
    assert all(path.stat().st_size > 100 for path in paths)
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_longer_than_trained_and_seeded(root, tmp_path):
    args = ("toy/low/seed0", "a red 7 moving left slowly", "--frames", "17", "--format", "gif")
    first = run(root, *args, "--out", str(tmp_path / "a"))[0]
    again = run(root, *args, "--out", str(tmp_path / "b"))[0]
    other = run(root, *args, "--out", str(tmp_path / "c"), "--seed", "1")[0]
    assert iio.imread(first, index=None, plugin="pillow").shape[0] == 17
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("name", ["teacher", "causal_sft/seed0", "toy/low/seed0"])
def test_any_number_of_frames_is_made(root, tmp_path, name):
    for frames in (8, 11):
        path = run(root, name, "a red 7", "--frames", str(frames), "--out", str(tmp_path / f"{frames}.webp"))[0]
        assert len(frames_of(path)) == frames


def test_unknown_words_are_warned_of(root, tmp_path, capsys):
    run(root, "toy/low/seed0", "a purple giraffe", "--out", str(tmp_path))
    assert "2 of its words were in no training caption" in capsys.readouterr().out


def test_an_ad_hoc_run_is_sampled_as_it_was_trained(ad_hoc, tmp_path, capsys):
    call = ("a red 7 moving left slowly", "--seed", "3", "--format", "png")
    named, short = (run(ad_hoc, name, *call, "--out", str(tmp_path / name))[0] for name in ("runs/mine", "mine"))
    declared = run(ad_hoc, "toy/low/seed0", *call, "--out", str(tmp_path / "declared"))[0]
    assert named.read_bytes() == short.read_bytes() != declared.read_bytes()  # by its own three steps
    assert "differs from training" not in capsys.readouterr().err
    again = ("--weights", str(ad_hoc / "runs/mine/checkpoints/model"), "--out", str(tmp_path / "again"))
    run(ad_hoc, "toy/low/seed0", *call, *again)
    assert "(runs/mine/manifest.json): denoising_steps: trained [1000, 700, 300]" in capsys.readouterr().err
    pipeline = CausalWanPipeline.from_target("mine", ad_hoc)
    assert pipeline.settings.denoising_steps == (1000, 700, 300)
    with pytest.raises(HarnessError, match="runs/yours: no finished run there"):
        run(ad_hoc, "runs/yours", *call)


def test_weights_of_another_kind_of_network_are_refused(root, tmp_path):
    other = shutil.copytree(root / "checkpoints/teacher/model", tmp_path / "other")
    config = read_json(other / "config.json")
    write_json(other / "config.json", config | {"in_channels": 41})
    with pytest.raises(
        HarnessError, match=f"other: in_channels is 41, the target's network .* {config['in_channels']};"
    ):
        run(root, "toy/low/seed0", "a red 7", "--weights", str(other), "--out", str(tmp_path / "clips"))
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "names no run"),
        (("teacher", "--steps", "0"), "--steps 0: expected 1"),
        (("teacher", "--cfg-scale", "0.5"), "--cfg-scale 0.5: expected at least 1"),
        (("teacher", "--cfg-scale", "nan"), "--cfg-scale nan: expected at least 1"),
        (("teacher", "--cfg-scale", "inf"), "--cfg-scale inf: expected at least 1"),
        (("teacher", "--number", "0"), "--number 0"),
        (("teacher", "--frames", "0"), "--frames 0: expected at least 1 frame"),
        (("teacher", "--window", "3"), "--window: teacher makes whole clips, without a cache"),
        (("toy/low/seed0", "--sink", "2", "--window", "2"), "rollout.sink: must be below the window"),
        (("toy/low/seed0", "--window", "0"), "window: must be"),
        (("teacher", "--prompt", "0: a red 7"), 'prompt "a red 7": others begin with a frame'),
        (("teacher", "--image", "photo.png"), "teacher makes video from text alone"),
        (("toy/high/seed0",), "checkpoints/toy/high/seed0/model"),
        (("teacher", "--weights", "no/such/folder"), "--weights no/such/folder: no model there"),
    ],
)
def test_what_is_wrong_is_told(root, tmp_path, arguments, message):
    target, *options = arguments
    with pytest.raises(HarnessError, match=message):
        run(root, target, "a red 7", *options, "--out", str(tmp_path))
    with pytest.raises(HarnessError, match="an empty prompt"):
        run(root, "teacher", " ", "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_ode_can_be_asked_of_a_student(root):
    from harness.config.load import load_params, resolve_target

    params, config = load_params(root / "params.yaml"), resolve_target("toy/low/seed0", root)
    assert choose_sampler(config, params, None, None).kind == "few_step"
    chosen = choose_sampler(config, params, 7, 2.0)
    assert (chosen.kind, chosen.steps, chosen.cfg_scale) == ("causal_euler", 7, 2.0)
    sft = resolve_target("causal_sft/seed0", root)
    sft = evolve(sft, rollout=evolve(sft.rollout, attention="bidirectional"))  # of the preset's students
    assert choose_sampler(sft, params, None, None).causal
    assert choose_sampler(sft, params, 7, None).kind == "causal_euler"


def test_names_of_files():
    assert file_name("A red 7, moving!", 3, "mp4") == "a_red_7_moving_3.mp4"
    assert file_name("→", 0, "gif") == "video_0.gif"


def test_the_verb_prints_the_paths(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["toy/low/seed0", "--out", str(tmp_path), "a red 7"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a_red_7_0.webp")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A project with a generator for each way of giving an image."""
    torch.set_num_threads(1)
    return make_project(tmp_path_factory.mktemp("images"))


PROMPT = "a red 7 moving left slowly"
I2V = ("channels", "first_latent", "both")


def frames_of(path) -> np.ndarray:
    return iio.imread(path, index=..., plugin="pillow")[..., :3]


@pytest.mark.parametrize("name", [*map(target, I2V), "teacher_i2v", "causal_sft_i2v/both/seed0"])
@pytest.mark.parametrize("options", [(), ("--steps", "2", "--cfg-scale", "2")])
def test_a_video_from_a_picture(images, tmp_path, name, options):
    """The picture matters, whatever the sampler: few steps or the guided ODE."""
    made = []
    for seed in (0, 1):
        path = photo(tmp_path / f"photo{seed}.jpg", (50, 33), seed)
        out = tmp_path / f"clip{seed}.webp"
        assert run(images, name, "--image", str(path), "--prompt", PROMPT, "--out", str(out), *options) == [out]
        made.append(frames_of(out))
    assert made[0].shape == (FRAMES, 4 * SIZE, 4 * SIZE, 3)
    assert not np.array_equal(made[0][1:], made[1][1:])  # the noise is the same


def test_the_first_frame_given_is_the_picture(images, tmp_path):
    """Frame 0 depends on the picture alone; where it is not given, on the noise too."""
    path = str(photo(tmp_path / "photo.png"))

    def first(way: str, seed: int) -> np.ndarray:
        out = tmp_path / f"{way}{seed}.webp"
        run(images, target(way), PROMPT, "--image", path, "--seed", str(seed), "--out", str(out))
        return frames_of(out)[0].astype(int)

    for way in ("first_latent", "both"):
        assert np.array_equal(first(way, 0), first(way, 1))
    assert np.abs(first("channels", 0) - first("channels", 1)).max() > 8


def test_frames_are_those_of_the_video_as_in_the_pipeline(images, tmp_path):
    """81 frames are 81 frames, not 81 latent ones; far more than the 9 of training."""
    path, out = photo(tmp_path / "photo.webp"), tmp_path / "clip.mp4"
    run(images, target("both"), "--image", str(path), "--prompt", PROMPT, "--frames", "81", "--out", str(out))
    assert len(iio.imread(out, plugin="FFMPEG")) == 81
    pipeline = CausalWanPipeline.from_target(target("both"), images)
    assert pipeline(PROMPT, path, num_frames=81).frames.shape[1] == 81
    with pytest.raises(HarnessError, match="the only frame would be the given picture"):
        run(images, target("both"), PROMPT, "--image", str(path), "--frames", "1", "--out", str(out))


def test_one_picture_for_each_prompt(images, tmp_path):
    paths = [str(photo(tmp_path / f"{seed}.png", seed=seed)) for seed in (0, 1)]
    both = [option for path in paths for option in ("--image", path)]
    out = ("--out", str(tmp_path), "--number", "2")
    made = run(images, target("first_latent"), PROMPT, "a blue 1", *both, *out)
    first = [frames_of(path)[0] for path in made]
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(first[2], first[3])
    assert not np.array_equal(first[0], first[2])
    with pytest.raises(HarnessError, match="2 pictures for 3 prompts"):
        run(images, target("first_latent"), "a", "b", "c", *both, *out)


@pytest.mark.parametrize("name", [*map(target, I2V), "teacher_i2v"])
def test_image_to_video_needs_a_picture(images, tmp_path, name):
    with pytest.raises(HarnessError, match=r"makes video from a picture .*give --image photo\.png"):
        run(images, name, PROMPT, "--out", str(tmp_path / "clip.webp"))
    with pytest.raises(HarnessError, match=r"gone\.png: no such file"):
        run(images, name, PROMPT, "--image", str(tmp_path / "gone.png"), "--out", str(tmp_path / "clip.webp"))
    assert not list(tmp_path.iterdir())


def test_what_was_done_to_the_picture_is_said(images, tmp_path, capsys):
    path = str(photo(tmp_path / "small.png", (8, 8)))
    run(images, target("channels"), PROMPT, "--image", path, "--out", str(tmp_path / "clip.webp"))
    assert "only 8×8 pixels, enlarged to cover 24×24" in capsys.readouterr().out


def test_a_prompt_may_stand_anywhere_and_must_be_there(images, tmp_path):
    made = run(images, target("none"), "--seed", "1", PROMPT, "--prompt", "a blue 1", "--out", str(tmp_path))
    assert [path.name for path in made] == ["a_red_7_moving_left_slowly_0.webp", "a_blue_1_1.webp"]
    with pytest.raises(HarnessError, match="no prompt: say what the video shows"):
        run(images, target("none"), "--out", str(tmp_path))


def test_out_is_a_folder_or_one_file(tmp_path):
    assert output_paths("clip.mp4", None, ["a"])[0].name == "clip.mp4"
    assert output_paths("clip.MP4", "mp4", ["a"])[0].name == "clip.MP4"
    assert [str(path) for path in output_paths("clips", "gif", ["a", "b"])] == ["clips/a_0.gif", "clips/b_1.gif"]
    assert str(output_paths("v1.0", None, ["a"])[0]) == "v1.0/a_0.webp"
    (tmp_path / "folder.mp4").mkdir()
    assert output_paths(str(tmp_path / "folder.mp4"), None, ["a"])[0].parent == tmp_path / "folder.mp4"
    with pytest.raises(HarnessError, match="one file for 2 videos"):
        output_paths("clip.mp4", None, ["a", "b"])
    with pytest.raises(HarnessError, match=r"its name says \.mp4, --format says gif"):
        output_paths("clip.mp4", "gif", ["a"])
    with pytest.raises(HarnessError, match=r"clip\.mov: cannot write \.mov; expected a folder, or one of .*\.mp4"):
        output_paths("clip.mov", None, ["a"])


@pytest.fixture
def settings(images):
    """Set run defaults of the project for one test."""
    path = images / "params.yaml"
    before = path.read_text()

    def change(**values) -> None:
        params = yaml.safe_load(before)
        params["presets"]["small"]["run"] |= values
        path.write_text(yaml.safe_dump(params))

    yield change
    path.write_text(before)


def test_the_runs_attention_back_end_and_precision_are_used(images, tmp_path, settings, monkeypatch):
    used, dtypes = [], []

    def spy(model, name):
        used.append(name)
        model.blocks[0].attn1.to_q.register_forward_hook(lambda *call: dtypes.append(call[2].dtype))

    monkeypatch.setattr(sample_module, "set_backend", spy)
    for precision in ("fp32", "bf16"):
        settings(attention_backend="_native_math", precision=precision)
        run(images, target("none"), PROMPT, "--out", str(tmp_path))
    assert used == ["_native_math"] * 2
    assert set(dtypes[: len(dtypes) // 2]) == {torch.float32}
    assert set(dtypes[len(dtypes) // 2 :]) == {torch.bfloat16}
    settings(attention_backend="flash", precision="fp32")
    with pytest.raises(HarnessError, match="flash computes in bf16 only"):
        run(images, target("none"), PROMPT, "--out", str(tmp_path))
