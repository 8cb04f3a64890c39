import imageio.v3 as iio
import pytest

from harness.errors import HarnessError
from harness.evaluation.sample import choose_sampler, file_name, main, parser, sample


def run(root, *arguments: str):
    return sample(parser().parse_args([*arguments]), root)


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
    args = ("toy/low/seed0", "a red 7 moving left slowly", "--frames", "5", "--format", "gif")
    first = run(root, *args, "--out", str(tmp_path / "a"))[0]
    again = run(root, *args, "--out", str(tmp_path / "b"))[0]
    other = run(root, *args, "--out", str(tmp_path / "c"), "--seed", "1")[0]
    assert iio.imread(first, index=None, plugin="pillow").shape[0] == 17
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_unknown_words_are_warned_of(root, tmp_path, capsys):
    run(root, "toy/low/seed0", "a purple giraffe", "--out", str(tmp_path))
    assert "2 of its words were in no training caption" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "names no run"),
        (("teacher", "--steps", "0"), "--steps 0: expected 1"),
        (("teacher", "--cfg-scale", "0.5"), "--cfg-scale 0.5: expected at least 1"),
        (("teacher", "--number", "0"), "--number 0"),
        (("teacher", "--frames", "0"), "--frames 0"),
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


def test_names_of_files():
    assert file_name("A red 7, moving!", 3, "mp4") == "a_red_7_moving_3.mp4"
    assert file_name("→", 0, "gif") == "video_0.gif"


def test_the_verb_prints_the_paths(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["toy/low/seed0", "a red 7", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a_red_7_0.webp")
