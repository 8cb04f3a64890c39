from pathlib import Path

import pytest

from harness.config.load import (
    known_keys,
    load_params,
    parse_overrides,
    resolve_file,
    resolve_preset,
    resolve_target,
    split_target,
    to_dict,
)
from harness.config.models import IMAGE_MODELS, MODELS
from harness.config.schema import RunConfig
from harness.config.structure import structure
from harness.errors import HarnessError

ROOT = Path(__file__).resolve().parents[2]
PRESETS = list(load_params(ROOT / "params.yaml").raw["presets"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_whole_and_can_be_tracked_by_dvc(name):
    params = load_params(ROOT / "params.yaml", name)
    assert params.preset_name == name
    assert "." not in name, "DVC splits parameter names at dots"


def test_the_published_settings_of_wan():
    dmd = resolve_file(ROOT / "configs/dmd.yaml", ["preset=wan2_1-t2v-1_3b"], ROOT / "params.yaml")
    assert (dmd.frames, dmd.rollout.shift, dmd.dmd.batch_size) == (21, 5.0, 64)
    assert (dmd.dmd.generator_optimizer.lr, dmd.dmd.critic_optimizer.lr) == (2e-6, 4e-7)
    presets = load_params(ROOT / "params.yaml").raw["presets"]
    assert presets["wan2_1-t2v-1_3b"]["run"]["rollout"]["denoising_steps"] == [1000, 750, 500, 250]
    assert presets["wan2_1-t2v-1_3b"]["run"]["dmd"]["cfg_scale"] == 4.0
    assert presets["wan2_1-i2v-14b-480p"]["run"]["dmd"]["cfg_scale"] == 7.0


def test_the_example_configurations_resolve():
    for path in (ROOT / "configs").glob("*.yaml"):
        method = resolve_file(path, (), ROOT / "params.yaml").method
        assert path.stem == method or path.stem.startswith(f"{method}_")


def test_a_preset_needs_no_file(project):
    config = resolve_preset("small", "causal_sft", ["seed=4", "causal_sft.updates=3"], project / "params.yaml")
    assert (config.preset, config.method, config.seed, config.causal_sft.updates) == ("small", "causal_sft", 4, 3)
    with pytest.raises(HarnessError, match="no preset"):
        resolve_preset("smal", "dmd", (), project / "params.yaml")


def test_model_names_are_those_that_have_a_geometry():
    from harness.models.presets import MODELS as geometries

    assert set(MODELS) == set(geometries)
    assert set(IMAGE_MODELS) == {name for name, shape in geometries.items() if shape.image_dim is not None}


def test_targets(project):
    teacher = resolve_target("teacher", project)
    assert (teacher.method, teacher.init.kind, teacher.seed) == ("sft", "random", 0)
    sft = resolve_target("causal_sft/seed2", project)
    assert (sft.method, sft.init.kind, sft.seed) == ("causal_sft", "teacher", 2)
    one, two = resolve_target("trial/one/seed1", project), resolve_target("trial/two/seed0", project)
    assert (one.method, one.init.kind, one.dmd.cfg_scale, one.seed) == ("dmd", "teacher", 1.5, 1)
    assert (two.init.kind, two.dmd.cfg_scale) == ("causal_sft", 3.0)
    assert structure(RunConfig, to_dict(two), "resolved") == two


def test_targets_of_image_to_video_start_from_text_to_video(project):
    teacher = resolve_target("teacher_i2v", project)
    assert (teacher.method, teacher.model, teacher.sft.updates) == ("sft", "tiny-i2v", 4)
    assert (teacher.init.kind, teacher.init.path) == ("checkpoint", "checkpoints/teacher")
    assert teacher.sft.optimizer == resolve_target("teacher", project).sft.optimizer  # the rest is the preset's
    channels = resolve_target("causal_sft_i2v/channels/seed2", project)
    assert (channels.model, channels.teacher, channels.seed) == ("tiny-i2v", "checkpoints/teacher_i2v", 2)
    assert (channels.init.kind, channels.rollout.first_frame_given) == ("teacher", False)
    first = resolve_target("causal_sft_i2v/first_latent/seed0", project)
    assert (first.model, first.teacher) == ("tiny", "checkpoints/teacher_i2v")
    assert (first.init.kind, first.init.path) == ("checkpoint", "checkpoints/sft_first_latent")
    assert first.rollout.first_frame_given
    before = resolve_target("sft_first_latent", project)
    assert (before.method, before.model, before.init.path) == ("sft", "tiny", "checkpoints/teacher")
    assert (before.sft, before.rollout.image_conditioning) == (teacher.sft, "first_latent")  # as long as teacher_i2v
    both = resolve_target("causal_sft_i2v/both/seed0", project)
    assert (both.model, both.rollout.image_conditioning) == ("tiny-i2v", "both")
    assert resolve_target("causal_sft/seed0", project).rollout.has_image is False


def test_an_experiment_turns_image_to_video_on(project):
    edit(project / "experiments/trial/experiment.yaml", "init.kind: teacher", "rollout.image_conditioning: channels")
    one = resolve_target("trial/one/seed0", project)
    assert (one.model, one.teacher) == ("tiny-i2v", "checkpoints/teacher_i2v")
    assert resolve_target("trial/two/seed0", project).model == "tiny"
    edit(project / "experiments/trial/experiment.yaml", "dmd.cfg_scale: 1.5", "dmd.cfg_scale: 1.5, teacher: mine")
    assert resolve_target("trial/one/seed0", project).teacher == "mine"  # what the experiment says counts


def test_problems_of_the_i2v_section_are_reported_there(project):
    edit(project / "params.yaml", "sft: {updates: 4}", "sft: {update: 4}")
    with pytest.raises(HarnessError, match=r"presets\.small\.i2v\.sft\.update: unknown key"):
        load_params(project / "params.yaml")


def test_the_section_for_long_video_holds_where_a_run_is_long(project):
    edit(project / "params.yaml", "    i2v:", "    long: {evaluate_frames: 18, dmd: {cfg_scale: 4}}\n    i2v:")
    edit(project / "experiments/trial/experiment.yaml", "init.kind: teacher", "init.kind: teacher, long: true")
    one, two = resolve_target("trial/one/seed0", project), resolve_target("trial/two/seed0", project)
    assert (one.evaluate_frames, two.evaluate_frames) == (18, None)
    assert one.dmd.cfg_scale == 1.5  # what the experiment says counts
    assert one.dmd.generator_updates == two.dmd.generator_updates == 12  # the rest is the preset's
    edit(project / "params.yaml", "evaluate_frames: 18", "evaluate_frame: 18")
    with pytest.raises(HarnessError, match=r"presets\.small\.long\.evaluate_frame: unknown key"):
        load_params(project / "params.yaml")


@pytest.mark.parametrize(
    "target",
    [
        "",
        "tacher",
        "teacher/seed0",
        "causal_sft",
        "causal_sft/a/seed0",
        "e/a",
        "e/a/seed01",
        "E/a/seed0",
        "teacher_i2v/seed0",
        "sft_first_latent/seed0",
        "causal_sft_i2v/seed0",
        "causal_sft_i2v/none/seed0",
    ],
)
def test_a_malformed_target_shows_the_forms(target):
    with pytest.raises(HarnessError, match="names no run: expected `teacher`"):
        split_target(target)


def test_unknown_names_are_suggested(project):
    with pytest.raises(HarnessError, match=r'no experiment "trail"; did you mean `trial`'):
        resolve_target("trail/one/seed0", project)
    with pytest.raises(HarnessError, match=r'no arm "tow"; did you mean `two`'):
        resolve_target("trial/tow/seed0", project)
    with pytest.raises(HarnessError, match=r'no preset "smal"; did you mean `small`'):
        load_params(project / "params.yaml", "smal")


def test_problems_of_an_experiment_come_together_with_their_places(project):
    path = project / "experiments/trial/experiment.yaml"
    edit(path, "dmd.cfg_scale: 1.5", "dmd: {cfg_scal: 1}, seed: 3")
    edit(path, "init.kind: teacher", "init.kin: teacher")
    with pytest.raises(HarnessError) as caught:
        resolve_target("trial/one/seed0", project)
    text = str(caught.value)
    assert "experiment.yaml: 3 problems" in text
    for line in (
        "fixed.dmd.cfg_scal: unknown key",
        "fixed.seed: is given by the target",
        "arms.one.set.init.kin: unknown",
    ):
        assert line in text


def test_a_bad_value_is_reported_where_it_was_given(project):
    path = project / "experiments/trial/experiment.yaml"
    edit(path, "dmd.cfg_scale: 3", "dmd.cfg_scale: 0.5")
    with pytest.raises(HarnessError, match=r"experiment\.yaml: arms\.two\.set\.dmd\.cfg_scale: must be >= 1"):
        resolve_target("trial/two/seed0", project)
    edit(project / "params.yaml", "lr: 4e-3", 'lr: "4e-3"')
    with pytest.raises(HarnessError, match=r"params\.yaml: presets\.small\.run\.sft\.optimizer\.lr: .*without quotes"):
        resolve_target("teacher", project)


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("init.kind=checkpoint", "command line: init.path: must be given"),
        ("rollout.denoising_steps=[500,1000]", "command line: rollout.denoising_steps: must decrease"),
        ("method=gan", "command line: method: expected one of sft, causal_sft, dmd"),
        ("preset=3", "preset: expected text"),
    ],
)
def test_a_bad_override_is_refused(project, override, place):
    with pytest.raises(HarnessError) as caught:
        resolve_file(project / "dmd.yaml", [override], project / "params.yaml")
    assert place in str(caught.value)


def test_overrides_are_yaml_and_the_last_wins():
    assert parse_overrides(["seed=1", "dmd.cfg_scale=2e0", "init.path=null", "seed=2"]) == {
        "dmd.cfg_scale": 2.0,
        "init.path": None,
        "seed": 2,
    }
    with pytest.raises(HarnessError) as caught:
        parse_overrides(["dmd.cfg=1", "seed", "cfg_scale=2"])
    assert "3 problems" in str(caught.value)
    assert "did you mean `dmd.cfg_scale`?" in str(caught.value)


def test_a_file_may_use_dotted_keys(project):
    (project / "c.yaml").write_text("method: dmd\nseed: 3\ndmd.cfg_scale: 1.25\n")
    config = resolve_file(project / "c.yaml", (), project / "params.yaml")
    assert (config.preset, config.seed, config.dmd.cfg_scale) == ("small", 3, 1.25)
    (project / "c.yaml").write_text("method: dmd\n")
    with pytest.raises(HarnessError, match="seed: is missing"):
        resolve_file(project / "c.yaml", (), project / "params.yaml")


@pytest.mark.parametrize(("old", "new"), [("seeds: [0, 1, 2]", "seeds: [0, 0]"), ("seeds: [0, 1, 2]", "seeds: []")])
def test_seeds_must_differ(project, old, new):
    edit(project / "params.yaml", old, new)
    with pytest.raises(HarnessError, match="seeds: expected different numbers"):
        load_params(project / "params.yaml")


def test_known_keys_are_dotted():
    assert {"seed", "dmd.generator_optimizer.lr", "rollout.window"} <= set(known_keys())
