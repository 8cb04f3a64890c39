import math
from pathlib import Path

import pytest

from harness.algorithms.updates import update_order
from harness.config.documents import read_yaml
from harness.config.explain import batch_splits, explain, main, undeclared
from harness.config.load import load_params, resolve_file, resolve_preset, resolve_target, to_dict
from harness.errors import HarnessError
from harness.io import write_json

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
    with pytest.raises(HarnessError, match="configured whole"):
        main(["teacher", "seed=1"])
    config = to_dict(resolve_file("dmd.yaml", ["dmd.cfg_scale=7"]))
    write_json(project / "runs/mine/manifest.json", {"config": config, "fingerprint": "f"})
    assert main(["runs/mine"]) == 0
    assert "cfg_scale 7" in capsys.readouterr().out
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
        (["prompts=data/mine"], "the prompts in data/mine; clips only for the monitor"),
        (["captions_with=quickly"], "captions with the words 'quickly'"),
        (["parallelism.kind=fsdp2"], "sharded over all processes"),
        (["parallelism={kind: fsdp2, shard_degree: 8, teacher_cpu_offload: true}"], "in groups of 8 processes"),
        (["parallelism={kind: fsdp2, teacher_cpu_offload: true}"], "the teacher waits in host memory"),
        (["parallelism={kind: fsdp2, reshard_after_forward: false}"], "stay gathered through a rollout"),
    ):
        assert expected in page(project, *words)
        assert expected not in usual


def test_long_video_and_adapters_have_their_places(project):
    long = ("long_tuning={enabled: true, max_frames: 18, min_new_frames: 6}", "rollout={window: 9, sink: 3}")
    text = page(project, *long)
    assert "\nLong tuning\n  a sequence" in text
    assert "6.375 forwards on average, 2.25 of them" in text
    assert "run again" not in text
    assert "costs as many more as blocks are run again" in page(project, *long, "long_tuning.switch_probability=0.5")
    assert "rank 8" in page(project, "lora={rank: 8, alpha: 16}")
    assert "clips of 36 latent frames" in page(project, "evaluate_frames=36")
    usual = page(project, long[0].replace("enabled: true", "enabled: false"), long[1])
    for words in ("Long tuning", "adapter", "long evaluation"):
        assert words not in usual


def test_where_a_student_is_the_start(project):
    text = page(project, "init={kind: student, path: checkpoints/trial/one}", "seed=2")
    assert "the student of the same seed (checkpoints/trial/one/seed2/model)" in text


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


def test_image_to_video_targets_are_declared_for_the_seeds_of_the_parameters(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert undeclared("teacher_i2v") is None
    assert undeclared("causal_sft_i2v/both/seed2") is None
    assert "params.yaml has [0, 1, 2]" in str(undeclared("causal_sft_i2v/both/seed9"))
