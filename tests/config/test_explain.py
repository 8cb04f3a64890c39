import math
from pathlib import Path

import pytest
from attrs import evolve

from harness.algorithms.updates import update_order
from harness.config.documents import read_yaml
from harness.config.explain import (
    batch_splits,
    ema_half_life,
    explain,
    long_rollout_cost,
    main,
    sampling_forwards,
    training_rollout_cost,
    undeclared,
    warped_timesteps,
)
from harness.config.load import load_params, resolve_file, resolve_preset, resolve_target
from harness.config.schema import RolloutConfig
from harness.errors import HarnessError

ROOT = Path(__file__).resolve().parents[2]
PRESETS = list(load_params(ROOT / "params.yaml").raw["presets"])
TARGETS = [
    "teacher",
    "causal_sft/seed0",
    "teacher_i2v",
    "sft_first_latent",
    *(f"causal_sft_i2v/{way}/seed0" for way in ("channels", "first_latent", "both")),
    *(
        f"{file.parent.name}/{arm}/seed0"
        for file in sorted((ROOT / "experiments").glob("*/experiment.yaml"))
        for arm in read_yaml(file)["arms"]
    ),
]


def test_timesteps_are_the_published_ones():
    assert warped_timesteps([1000, 750, 500, 250], 5.0) == pytest.approx([1000, 937.5, 833.3333, 625])
    assert warped_timesteps([700], 1.0) == pytest.approx([700])


def test_half_life():
    assert 0.99 ** ema_half_life(0.99) == pytest.approx(0.5)
    assert ema_half_life(0.0) == 0


def test_rollout_cost():
    causal = RolloutConfig()
    cost = training_rollout_cost(causal, 21)
    assert (cost.blocks, cost.steps_per_block, cost.context_passes) == (7, 2.5, 6)
    assert cost.forwards == 7 * 2.5 + 6
    last = training_rollout_cost(evolve(causal, exit_step="last"), 21)
    assert last.forwards == 7 * 4 + 6
    whole = training_rollout_cost(evolve(causal, attention="bidirectional"), 21)
    assert (whole.blocks, whole.context_passes, whole.forwards) == (1, 0, 2.5)


def page(project: Path, *overrides: str) -> str:
    config = resolve_file(project / "dmd.yaml", overrides, project / "params.yaml")
    return explain(config, load_params(project / "params.yaml").preset)


def test_a_distillation_in_words_and_numbers(project):
    updates = ("dmd.generator_updates=100", "dmd.critic_warmup_updates=50")
    text = page(project, "dmd.cfg_scale=4", "rollout.window=6", *updates)
    for part in (
        "t = 1000, 750",
        "guidance_scale: 3",
        "100 of the generator, 545 of the critic",
        "645 batches",
        "500, as the references count",
        "every 5th of which",
        "the last 3 finished frames, and itself: a window of 6",
        "sigma = 1, 0.75",
        "6 denoising forwards and 2 to fill the cache",
        "3 blocks of 3",
        "33 frames of 24×24",
        f"half-life {math.log(0.5) / math.log(0.97):.1f}",
    ):
        assert part in text
    assert "1 teacher forwards" in page(project, "dmd.cfg_scale=1")
    assert "no cache" in page(project, "rollout.attention=bidirectional")


@pytest.mark.parametrize(
    ("target", "part"), [("teacher", "random weights"), ("causal_sft/seed1", "clean earlier blocks")]
)
def test_targets(project, target, part):
    assert part in explain(resolve_target(target, project), load_params(project / "params.yaml").preset)


def test_the_verb(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["dmd.yaml", "dmd.cfg_scale=3"]) == 0
    assert "cfg_scale 3" in capsys.readouterr().out
    with pytest.raises(HarnessError, match="did you mean"):
        main(["dmd.yaml", "dmd.cfg=3"])
    with pytest.raises(HarnessError, match="declared whole"):
        main(["teacher", "seed=1"])
    assert main(["small", "--method", "sft", "sft.updates=7"]) == 0
    assert "7 of 64 clips" in capsys.readouterr().out
    assert main(["small"]) == 0
    assert "distribution matching" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dmd.yaml", "model=wan"], 'command line: model: "wan" is no model.*did you mean|known: tiny'),
        (["dmd.yaml", "--method", "sft"], "--method goes with a preset; dmd.yaml has its own"),
        (["smal", "--method", "sft"], 'and "smal" is none; did you mean `small`'),
        (["small", "--method", "sff"], "method: expected one of sft, causal_sft, dmd"),
        (["nothing"], "names no run: .* or a preset: small"),
        (["trial/three/seed0"], "no arm"),
        (["missing.yaml"], "no such file"),
    ],
)
def test_wrong_words_are_one_clear_message(project, monkeypatch, words, expected):
    monkeypatch.chdir(project)
    with pytest.raises(HarnessError, match=expected):
        main(words)


def test_a_seed_that_nothing_declares_is_said(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert undeclared("teacher") is None
    assert undeclared("causal_sft/seed2") is None
    assert undeclared("trial/one/seed0") is None
    assert "experiment.yaml has [0]" in str(undeclared("trial/one/seed1"))
    assert "params.yaml has [0, 1, 2]" in str(undeclared("causal_sft/seed3"))
    main(["causal_sft/seed3"])
    assert "seed 3 is not declared" in capsys.readouterr().out


@pytest.mark.parametrize("warmup", [0, 7])
def test_the_updates_are_those_that_training_makes(project, warmup):
    words = ("dmd.generator_updates=11", f"dmd.critic_warmup_updates={warmup}")
    order = update_order(resolve_file(project / "dmd.yaml", words, project / "params.yaml"))
    text = page(project, *words)
    assert f"11 of the generator, {order.total('critic')} of the critic" in text
    assert f"{order.batches} batches" in text


def test_the_window_counts_the_sink_and_the_block(project):
    assert "a block sees all earlier frames" in page(project)
    text = page(project, "rollout.window=8", "rollout.sink=2")
    assert "the first 2 (sink), the last 3 finished frames, and itself: a window of 8" in text


def test_what_a_run_has_beside_the_usual(project):
    usual = page(project)
    for words, expected in (
        (["monitor.patience=3", "dmd.monitor_every_updates=2"], "after 3 measurements without a better fvd"),
        (["dmd.rollouts_ahead=true"], "rollouts of a cycle's critic updates are one batch"),
        (["attention_backend=flash"], "`flash` of diffusers' dispatcher"),
        (["parallelism.kind=fsdp2"], "sharded over all processes"),
        (["parallelism={kind: fsdp2, shard_degree: 8, teacher_cpu_offload: true}"], "in groups of 8 processes"),
        (["parallelism={kind: fsdp2, teacher_cpu_offload: true}"], "the teacher waits in host memory"),
        (["parallelism={kind: fsdp2, reshard_after_forward: false}"], "stay gathered through a rollout"),
    ):
        assert expected in page(project, *words)
        assert expected not in usual


LONG = (
    "long_tuning.enabled=true",
    "long_tuning.max_frames=33",
    "long_tuning.min_new_frames=6",
    "long_tuning.switch_probability=0.5",
    "rollout.window=9",
    "rollout.sink=3",
)


def test_long_tuning_in_words_and_numbers(project):
    text = page(project, *LONG)
    for part in (
        "up to 33 latent frames (129 frames): 4.12 updates",
        "makes 6 or 9 new frames, drawn evenly, the same on all ranks; the first of a sequence 9",
        "a clip of 9: the new frames, and up to 3 before them",
        "(7.73 are new on average)",
        "50% of the sequences change theirs once, at any of the frames 9…27 alike",
        "run again under the new one, the sink of 3 stays",
        "costs as many more as blocks are run again",
    ):
        assert part in text
    always = page(project, *LONG, "long_tuning.min_new_frames=9", "long_tuning.switch_probability=0")
    assert "makes 9 new frames; the first of a sequence 9" in always
    assert "one for a sequence" in always
    assert "run again" not in always
    for way, words in (
        ("recache", "the first of them are the sink"),
        ("keep", "stays as it is"),
        ("clear", "is emptied"),
    ):
        assert words in page(project, *LONG, f"rollout.on_switch={way}")
    assert "Long tuning" not in page(project, *LONG, "long_tuning.enabled=false")


def test_the_cost_of_long_tuning(project):
    config = resolve_file(project / "dmd.yaml", LONG, project / "params.yaml")
    clips = evolve(config, long_tuning=evolve(config.long_tuning, max_frames=9))
    assert long_rollout_cost(clips) == training_rollout_cost(config.rollout, 9)
    two = evolve(config, long_tuning=evolve(config.long_tuning, max_frames=18))  # 9, then 6 or 9: 5.5 blocks
    assert (long_rollout_cost(two).blocks, long_rollout_cost(two).context_passes) == (2.75, 2.25)
    assert "6.375 forwards on average, 2.25 of them" in page(project, *LONG, "long_tuning.max_frames=18")


def test_adapters_and_long_clips_are_told(project):
    text = page(project, "lora={rank: 8, alpha: 16, share_teacher: true}", "evaluate_frames=36")
    assert "rank 8, scaled by 2 (alpha 16), on every linear layer of the blocks" in text
    assert "the teacher is the critic's base without its adapter" in text
    assert "clips of 36 latent frames (141 frames) too, 4 times the training length" in text
    assert "on the layers to_q, to_v," in page(project, "lora={rank: 8, targets: [to_q, to_v]}")
    assert "adapter" not in page(project)
    assert "long evaluation" not in page(project)


def test_where_a_student_is_the_start(project):
    text = page(project, "init={kind: student, path: checkpoints/trial/one}", "seed=2")
    assert "the student of the same seed (checkpoints/trial/one/seed2/model)" in text


def test_forwards_of_a_sampled_video():
    assert sampling_forwards(RolloutConfig(), 21) == (28, 6)
    assert sampling_forwards(RolloutConfig(), 120) == (160, 39)
    assert sampling_forwards(RolloutConfig(attention="bidirectional"), 21) == (4, 0)


def test_how_a_batch_divides(project):
    words = ("dmd.batch_size=16", "parallelism.device_microbatch_size=3")
    config = resolve_file(project / "dmd.yaml", words, project / "params.yaml")
    assert batch_splits(config, (1, 3, 8, 16)) == [
        "1 process: 16 clips each in 6 microbatches",
        "8 processes: 2 clips each",
        "16 processes: 1 clip each",
    ]


def test_the_average_says_when_there_is_none(project):
    assert "none: the weights themselves" in page(project, "dmd.ema_decay=0")
    assert "begin after update 40 of 12" in page(project, "dmd.ema_start=40")
    assert "generator updates, from update 5" in page(project, "dmd.ema_start=5")


@pytest.mark.parametrize("method", ["sft", "causal_sft", "dmd"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name, method):
    text = explain(
        resolve_preset(name, method, (), ROOT / "params.yaml"), load_params(ROOT / "params.yaml", name).preset
    )
    assert f"preset {name}" in text
    assert ("first frame" in text) == ("-i2v-" in name)


@pytest.mark.parametrize("target", TARGETS)
def test_every_declared_target(target):
    assert "method" in explain(resolve_target(target, ROOT), load_params(ROOT / "params.yaml").preset)


def shipped(target):
    return explain(resolve_target(target, ROOT), load_params(ROOT / "params.yaml", "tiny").preset)


def test_how_an_image_is_given():
    channels = shipped("i2v_conditioning/channels/seed0")
    assert "given as image tokens and `y` on channels; the model generates all frames; critic and teacher" in channels
    assert "causal_sft_i2v/channels/seed0/model" in channels
    assert "3 blocks of 3; a block sees" in channels
    assert "captions, and image tokens and `y` of their first frames, of the clips" in channels
    first = shipped("i2v_conditioning/first_latent/seed0")
    assert "frame 0, in the cache before the first block, without loss; the model reads no image; critic" in first
    assert "3 blocks of 3 after the given first frame" in first
    assert "the given first frame clean" in first
    both = shipped("causal_sft_i2v/both/seed0")
    assert "given as image tokens and `y`, and as its latent, frame 0, clean at t = 0, without loss" in both
    assert "a clean first frame, then 3 blocks of 3" in both
    text = shipped("i2v_vs_t2v/t2v/seed0")
    for word in ("first frame", "image tokens"):
        assert word not in text


def test_a_given_first_frame_costs_a_context_pass_and_no_block():
    given = RolloutConfig(image_conditioning="first_latent")
    assert sampling_forwards(given, 21) == (28, 7)
    assert sampling_forwards(evolve(given, frames_per_block=4), 21) == (20, 5)
    assert sampling_forwards(evolve(given, attention="bidirectional"), 21) == (4, 0)
    cost = training_rollout_cost(given, 22)
    assert (cost.blocks, cost.context_passes) == (7, 7)


def test_image_to_video_targets_are_declared_for_the_seeds_of_the_parameters(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert undeclared("teacher_i2v") is None
    assert undeclared("causal_sft_i2v/both/seed2") is None
    assert "params.yaml has [0, 1, 2]" in str(undeclared("causal_sft_i2v/both/seed9"))
