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


def test_an_image_needs_a_network_that_reads_it_and_data_that_has_it(project):
    params = project / "params.yaml"
    image = ["rollout.image_conditioning=both"]
    with pytest.raises(HarnessError, match="`model: tiny` does not read"):
        resolve_file(project / "dmd.yaml", [*image, "model=tiny"], params)
    with pytest.raises(HarnessError, match="reads image tokens and `y`: expected channels or both, got none"):
        resolve_file(project / "dmd.yaml", ["model=tiny-i2v"], params)
    with pytest.raises(HarnessError, match="frames: must be at least 2 where the first one is given"):
        resolve_file(project / "dmd.yaml", [*image, "frames=1"], params)
    assert resolve_file(project / "dmd.yaml", [*image, "frames=8"], params).frames == 8  # 1 + 3 + 3 + 1
    edit(params, "image_encoder: random_clip", "image_encoder: null")
    edit(params, "    i2v: {model: tiny-i2v, teacher: checkpoints/teacher_i2v, sft: {updates: 4}}", "")
    with pytest.raises(HarnessError, match=r"set encoders\.image_encoder in the preset"):
        resolve_file(project / "dmd.yaml", [*image, "model=tiny-i2v"], params)


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
        ("frames=12", "command line: frames: 12 latent frames, but clips of 33 frames have 9"),
        ("rollout.frames_per_block=2", "command line: rollout.frames_per_block: 9 latent frames do not divide"),
        ("rollout.window=2", "command line: rollout.window: must hold a block"),
        (
            "rollout={window: 6, sink: 6}",
            "command line: rollout.sink: must be below the window (6 frames, sink included)",
        ),
        ("model=wan2.1-t2v-1b", 'model: "wan2.1-t2v-1b" is no model; did you mean `wan2.1-t2v-14b`?'),
        ("monitor.metric=fdv", 'command line: monitor.metric: "fdv" is no metric; did you mean `fvd`?'),
        ("dmd.min_t=990", "command line: dmd.min_t: must be below dmd.max_t"),
        ("init.kind=checkpoint", "command line: init.path: must be given"),
        ("rollout.denoising_steps=[500,1000]", "command line: rollout.denoising_steps: must decrease"),
        ("method=gan", "command line: method: expected one of sft, causal_sft, dmd"),
        ("preset=3", "preset: expected text"),
    ],
)
def test_settings_that_do_not_fit_are_refused(project, override, place):
    with pytest.raises(HarnessError) as caught:
        resolve_file(project / "dmd.yaml", [override], project / "params.yaml")
    assert place in str(caught.value)


LONG = {
    "long_tuning.enabled": True,
    "long_tuning.max_frames": 33,
    "long_tuning.min_new_frames": 6,
    "rollout.window": 9,
    "rollout.sink": 3,
}


def long(project, **changes):
    """A run of long tuning, with changes whose dots are double underscores."""
    values = LONG | {key.replace("__", "."): value for key, value in changes.items()}
    words = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    return resolve_file(project / "dmd.yaml", words, project / "params.yaml")


def test_long_tuning_of_every_length_that_fits(project):
    assert long(project).long_tuning.max_frames == 33
    long(project, rollout__window=-1, rollout__sink=0)
    long(project, rollout__window=4)
    long(project, long_tuning__max_frames=9)
    long(project, long_tuning__max_frames=15, long_tuning__switch_probability=1)
    long(project, long_tuning__min_new_frames=9, rollout__window=3, rollout__sink=0)
    off = {"long_tuning__enabled": False, "long_tuning__min_new_frames": 18, "rollout__window": 3, "rollout__sink": 0}
    long(project, **off, dmd__rollouts_ahead=True)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"method": "sft"}, "long_tuning.enabled: long tuning is for `method: dmd`, not sft"),
        (
            {"rollout__attention": "bidirectional"},
            "long_tuning.enabled: long tuning needs `rollout.attention: causal`",
        ),
        (
            {"rollout__image_conditioning": "channels"},
            "long_tuning.enabled: with `rollout.image_conditioning: channels` critic and teacher would have",
        ),
        (
            {"dmd__rollouts_ahead": True},
            "dmd.rollouts_ahead: makes rollouts before their turn, but with `long_tuning.enabled` each goes on",
        ),
        ({"long_tuning__min_new_frames": 5}, "long_tuning.min_new_frames: must be whole blocks (3 frames, "),
        ({"long_tuning__min_new_frames": 12}, "and fit a clip (frames: 9), got 12"),
        ({"long_tuning__max_frames": 6}, "long_tuning.max_frames: must hold a clip (frames: 9), got 6"),
        (
            {"long_tuning__max_frames": 14, "long_tuning__switch_probability": 0.5},
            "long_tuning.switch_probability: a prompt changes after the first chunk, but 14 frames",
        ),
        (
            {"rollout__window": 5, "long_tuning__min_new_frames": 3, "rollout__sink": 0},
            "rollout.window: must reach one frame beyond the clip that long tuning judges: at least 7 frames",
        ),
    ],
)
def test_long_tuning_that_does_not_fit_is_refused(project, change, place):
    with pytest.raises(HarnessError) as caught:
        long(project, **change)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("method", "words", "place"),
    [
        ("causal_sft", ["lora.rank=4"], "lora.rank: adapters are for `method: dmd`, not causal_sft"),
        ("dmd", ["lora.share_teacher=true"], "lora.share_teacher: critic and teacher can share weights only where"),
        ("dmd", ["evaluate_frames=15"], "evaluate_frames: must be at least twice a training clip (18 latent frames)"),
        ("dmd", ["evaluate_frames=19"], "evaluate_frames: must be whole blocks (3 frames, rollout.frames_per_block)"),
    ],
)
def test_adapters_and_long_clips_that_do_not_fit_are_refused(project, method, words, place):
    with pytest.raises(HarnessError) as caught:
        resolve_file(project / f"{method}.yaml", words, project / "params.yaml")
    assert f"command line: {place}" in str(caught.value)


def test_long_clips_follow_the_blocks(project):
    params = project / "params.yaml"
    assert resolve_file(project / "dmd.yaml", ["evaluate_frames=18"], params).evaluate_frames == 18
    resolve_file(project / "dmd.yaml", ["evaluate_frames=19", "rollout.attention=bidirectional"], params)
    resolve_file(project / "dmd.yaml", ["evaluate_frames=19", "rollout.image_conditioning=first_latent"], params)


@pytest.mark.parametrize("kind", ["causal_sft", "student"])
def test_only_dmd_starts_from_a_run_of_the_same_seed(project, kind):
    words = [f"init.kind={kind}", "init.path=checkpoints/trial/one"]
    with pytest.raises(HarnessError, match=f"{kind} is a start for dmd only"):
        resolve_file(project / "causal_sft.yaml", words, project / "params.yaml")


def test_a_causal_sft_does_not_start_from_itself(project):
    with pytest.raises(HarnessError, match="a start for dmd only"):
        resolve_file(project / "causal_sft.yaml", ["init.kind=causal_sft"], project / "params.yaml")


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
