import pytest
from attrs import evolve

from harness.config.checks import cross_check, fixed_chunks
from harness.config.load import load_params, resolve_file
from harness.errors import HarnessError


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("frames=12", "command line: frames: 12 latent frames, but clips of 33 frames have 9"),
        ("rollout.frames_per_block=2", "command line: rollout.frames_per_block: 9 latent frames do not divide"),
        ("rollout.window=2", "command line: rollout.window: must hold the sink and a block"),
        (
            "rollout={window: 6, sink: 6}",
            "command line: rollout.sink: must be below the window (6 frames, sink included)",
        ),
        ("model=wan2.1-t2v-1b", 'model: "wan2.1-t2v-1b" is no model; did you mean `wan2.1-t2v-14b`?'),
        ("monitor.metric=fdv", 'command line: monitor.metric: "fdv" is no metric; did you mean `fvd`?'),
        ("dmd.min_t=990", "command line: dmd.min_t: must be below dmd.max_t"),
        ("long=true", "command line: long: preset small has no section `long`; write one"),
    ],
)
def test_settings_that_do_not_fit_are_refused(project, override, place):
    with pytest.raises(HarnessError) as caught:
        resolve_file(project / "dmd.yaml", [override], project / "params.yaml")
    assert place in str(caught.value)


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
    run = resolve_file(project / "dmd.yaml", image, params)
    preset = load_params(params).preset
    assert list(cross_check(run, preset)) == []
    blind = evolve(preset, encoders=evolve(preset.encoders, image_encoder=None))
    ((key, problem),) = cross_check(run, blind)
    assert key == "rollout.image_conditioning"
    assert "set encoders.image_encoder in the preset" in problem


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
    long(project, rollout__window=6)
    long(project, long_tuning__max_frames=9)
    four = {"dmd__critic_updates_per_generator_update": 4}
    long(project, long_tuning__max_frames=15, long_tuning__switch_probability=1, **four)
    long(project, long_tuning__min_new_frames=9, rollout__window=3, rollout__sink=0, **four)
    off = {"long_tuning__enabled": False, "long_tuning__min_new_frames": 18, "rollout__window": 3, "rollout__sink": 0}
    long(project, **off, dmd__rollouts_ahead=True)


@pytest.mark.parametrize(("longest", "ratio"), [(33, 5), (21, 4), (27, 4)])  # 5, 3 and 4 chunks
def test_the_generator_meets_every_chunk(project, longest, ratio):
    config = long(
        project,
        long_tuning__max_frames=longest,
        long_tuning__max_new_frames=6,
        dmd__critic_updates_per_generator_update=ratio,
    )
    chunks = fixed_chunks(config)
    assert chunks is not None
    assert {update * (1 + ratio) % chunks for update in range(chunks)} == set(range(chunks))


def test_chunks_are_not_fixed_where_their_lengths_are_drawn(project):
    assert fixed_chunks(long(project)) is None
    assert fixed_chunks(long(project, long_tuning__max_frames=9)) == 1


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
        (
            {"long_tuning__max_frames": 21, "long_tuning__max_new_frames": 6},  # 9, 15, 21, and a cycle of 6 updates
            "long_tuning.max_frames: every sequence has 3 chunks and every 6th update is the generator's",
        ),
        ({"rollout__window": 7, "rollout__sink": 5}, "rollout.window: must hold the sink and a block (5 + 3 frames)"),
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


def test_only_dmd_without_images_trains_on_a_list_of_prompts(project):
    params, words = project / "params.yaml", "prompts=data/prompts"
    assert resolve_file(project / "dmd.yaml", [words], params).told_by == "data/prompts"
    assert resolve_file(project / "dmd.yaml", [], params).told_by == "data/encoded"
    with pytest.raises(HarnessError, match="prompts: causal_sft learns from clips, which a list of prompts has not"):
        resolve_file(project / "causal_sft.yaml", [words], params)
    with pytest.raises(HarnessError, match=r"prompts: with `rollout.image_conditioning: both` each prompt needs its"):
        resolve_file(project / "dmd.yaml", [words, "rollout.image_conditioning=both"], params)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_32_bits(project, seed):
    with pytest.raises(HarnessError, match="seed: "):
        resolve_file(project / "dmd.yaml", [f"seed={seed}"], project / "params.yaml")
