from pathlib import Path
from typing import Any

import pytest
from their_files import FILES

from harness.config.documents import parse_yaml, read_yaml
from harness.config.foreign.translate import RULES, Translation, translate
from harness.config.load import load_params, resolve_values
from harness.config.schema import RunConfig
from harness.config.structure import leaves
from harness.errors import HarnessError

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"
PRESETS = {name: load_params(PARAMS, name).preset for name in load_params(PARAMS).raw["presets"]}
SELF_FORCING = parse_yaml(FILES["self_forcing_dmd"], "f.yaml")


def of(document: dict[str, Any], **options: Any) -> Translation:
    return translate(document, PRESETS, where="f.yaml", **options)


def changed(**values: Any) -> Translation:
    """Self-Forcing's file with other values; `None` takes a key out."""
    merged = {**SELF_FORCING, **values}
    return of({key: value for key, value in merged.items() if value is not None})


def outcome(translation: Translation, key: str):
    return next(entry.outcome for entry in translation.entries if entry.key == key)


def resolved(name: str, **options: Any) -> RunConfig:
    translation = of(parse_yaml(FILES[name], name), **options)
    return resolve_values(translation.document, name, (), PARAMS)


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_theirs_loads_strictly_with_no_key_unknown(name):
    translation = of(parse_yaml(FILES[name], name))
    assert translation.unknown == {}
    assert resolve_values(translation.document, name, (), PARAMS).method == "dmd"
    keys = [entry.key for entry in translation.entries]
    assert len(keys) == len(set(keys))
    assert all(entry.outcome.why or entry.outcome.settings for entry in translation.entries)


def test_self_forcing():
    run = resolved("self_forcing_dmd")
    dmd, rollout = run.dmd, run.rollout
    assert (run.preset, run.model, run.frames) == ("wan2_1-t2v-1_3b", "wan2.1-t2v-1.3b", 21)
    assert (run.init.kind, run.init.path) == ("checkpoint", "pretrained/ode_init")
    assert run.teacher == "pretrained/wan2.1-t2v-14b"
    assert (dmd.cfg_scale, dmd.critic_updates_per_generator_update, dmd.generator_updates) == (4.0, 5, 120)
    assert (dmd.ema_decay, dmd.ema_start, dmd.batch_size) == (0.99, 40, 64)
    assert (dmd.shift, dmd.min_t, dmd.max_t) == (5.0, 20.0, 980.0)
    for optimizer, lr in ((dmd.generator_optimizer, 2e-6), (dmd.critic_optimizer, 4e-7)):
        assert (optimizer.lr, optimizer.betas) == (lr, (0.0, 0.999))
        assert (optimizer.weight_decay, optimizer.clip_norm) == (0.01, 10.0)
    assert (rollout.attention, rollout.frames_per_block, rollout.window, rollout.sink) == ("causal", 3, -1, 0)
    assert (rollout.denoising_steps, rollout.shift) == ((1000, 750, 500, 250), 5.0)
    assert (rollout.exit_step, rollout.context_sigma, rollout.kv_grad) == ("uniform", 0.0, "detach")
    assert (run.precision, run.save_every_batches) == ("bf16", 60)
    assert (run.parallelism.kind, run.parallelism.activation_checkpointing) == ("fsdp2", True)
    assert run.parallelism.device_microbatch_size == 1


def test_what_has_to_be_imported_first():
    assert of(SELF_FORCING).to_do == [
        "in params.yaml: encoders.negative_prompt of preset wan2_1-t2v-1_3b has to be the negative_prompt of f.yaml",
        "python -m harness import checkpoints/ode_init.pt --preset wan2.1-t2v-1.3b --out pretrained/ode_init",
        "python -m harness import Wan-AI/Wan2.1-T2V-14B-Diffusers --preset wan2.1-t2v-14b "
        "--out pretrained/wan2.1-t2v-14b",
        "python -m harness import Wan-AI/Wan2.1-T2V-1.3B-Diffusers --preset wan2.1-t2v-1.3b "
        "--out pretrained/wan2.1-t2v-1.3b",
        "python -m harness prompts prompts/vidprom_filtered_extended.txt --out data/prompts",
    ]
    run = resolved("self_forcing_dmd")
    assert (run.teacher, run.critic) == ("pretrained/wan2.1-t2v-14b", "pretrained/wan2.1-t2v-1.3b")
    i2v = of(parse_yaml(FILES["self_forcing_14b_i2v_dmd"], "f.yaml"))
    assert "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers --preset wan2.1-i2v-14b-480p" in i2v.to_do[1]


def test_sid_is_another_objective():
    translation = of(parse_yaml(FILES["self_forcing_sid"], "f.yaml"))
    assert not outcome(translation, "distribution_loss").fits
    assert not outcome(translation, "sid_alpha").fits
    run = resolved("self_forcing_sid")
    assert run.dmd.critic_optimizer.lr == 2e-6
    assert run.dmd.generator_optimizer.weight_decay == run.dmd.critic_optimizer.weight_decay == 0.0
    assert outcome(translation, "fake_name").fits, "critic and teacher have the same size"


def test_longlive():
    run = resolved("longlive_train_init")
    assert (run.rollout.window, run.rollout.sink, run.rollout.gradient_frames) == (12, 3, 21)
    assert (run.dmd.generator_updates, run.dmd.ema_decay) == (140, 0.99)


def test_a_file_for_sampling():
    translation = of(parse_yaml(FILES["longlive_inference"], "f.yaml"))
    assert not {key for key in translation.settings if key.startswith("dmd.")}
    assert (translation.settings["rollout.window"], translation.settings["rollout.frames_per_block"]) == (12, 3)
    assert translation.to_do == [
        "python -m harness import models/longlive_base.pt --preset wan2.1-t2v-1.3b --out pretrained/longlive_base "
        "--lora models/lora.pt --weights raw"
    ]
    assert "--frames 477" in outcome(translation, "num_output_frames").why
    assert "sampling" in translation.notes[0]


def test_self_forcing_plus():
    run = resolved("self_forcing_14b_dmd")
    assert (run.model, run.rollout.attention, run.dmd.cfg_scale) == ("wan2.1-t2v-14b", "bidirectional", 5.0)
    assert (run.init.kind, run.dmd.generator_updates, run.dmd.ema_decay) == ("teacher", 600, 0.99)
    i2v = of(parse_yaml(FILES["self_forcing_14b_i2v_dmd"], "f.yaml"))
    assert (i2v.settings["preset"], i2v.settings["dmd.cfg_scale"]) == ("wan2_1-i2v-14b-480p", 7.0)
    assert i2v.settings["dmd.ema_decay"] == 0.0, "its trainer averages nothing unless told to"
    assert not outcome(i2v, "i2v").fits
    assert outcome(i2v, "fake_name").fits


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"guidance_scale": 0}, {"dmd.cfg_scale": 1.0}),
        ({"real_guidance_scale": 5.0}, {"dmd.cfg_scale": 6.0}),
        ({"dfake_gen_update_ratio": 4}, {"dmd.critic_updates_per_generator_update": 4, "dmd.ema_start": 50}),
        ({"ema_start_step": 201}, {"dmd.ema_start": 41}),
        ({"ema_weight": -1.0}, {"dmd.ema_decay": 0.0}),
        ({"max_iters": 600}, {"dmd.generator_updates": 120}),
        ({"max_iters": 601}, {"dmd.generator_updates": 121}),
        ({"lr_critic": None}, {"dmd.generator_optimizer.lr": 2e-6, "dmd.critic_optimizer.lr": 2e-6}),
        ({"beta1": 0.5, "beta2_critic": 0.9}, {"dmd.generator_optimizer.betas": [0.5, 0.999]}),
        ({"beta1": 0.5, "beta2_critic": 0.9}, {"dmd.critic_optimizer.betas": [0.0, 0.9]}),
        ({"max_grad_norm_critic": 1.0}, {"dmd.critic_optimizer.clip_norm": 1.0}),
        ({"max_grad_norm_critic": 1.0}, {"dmd.generator_optimizer.clip_norm": 10.0}),
        ({"denoising_step_list": [1000, 500, 0]}, {"rollout.denoising_steps": [1000, 500]}),
        ({"warp_denoising_step": False}, {"rollout.shift": 1.0, "dmd.shift": 5.0}),
        ({"model_kwargs": {"timestep_shift": 3.0}}, {"rollout.shift": 3.0, "dmd.shift": 5.0}),
        ({"model_kwargs": None}, {"rollout.shift": 8.0}),
        ({"timestep_shift": None}, {"rollout.shift": 5.0, "dmd.shift": 1.0}),
        ({"last_step_only": True}, {"rollout.exit_step": "last"}),
        ({"same_step_across_blocks": False}, {"rollout.exit_step": "uniform_per_block"}),
        ({"context_noise": 100}, {"rollout.context_sigma": 0.1}),
        ({"model_kwargs": {"timestep_shift": 5.0, "local_attn_size": -1}}, {"rollout.window": -1}),
        ({"sharding_strategy": "no_shard"}, {"parallelism.kind": "ddp"}),
        ({"mixed_precision": False}, {"precision": "fp32"}),
        ({"gradient_checkpointing": False}, {"parallelism.activation_checkpointing": False}),
        ({"batch_size": 2}, {"parallelism.device_microbatch_size": 2}),
        ({"seed": 7}, {"seed": 7}),
        ({"real_score_cpu_offload": True}, {"parallelism.teacher_cpu_offload": True}),
        ({"log_iters": 101}, {"save_every_batches": 122}),
        ({"generator_ckpt": None}, {"init.kind": "checkpoint", "init.path": "pretrained/wan2.1-t2v-1.3b"}),
        ({"generator_ckpt": None, "real_name": "Wan2.1-T2V-1.3B"}, {"init.kind": "teacher"}),
    ],
)
def test_values_are_converted(values, settings):
    translation = changed(**values)
    assert {key: translation.settings.get(key) for key in settings} == settings
    resolve_values(translation.document, "f.yaml", (), PARAMS)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("ts_schedule", True, "does not bound"),
        ("denoising_loss_type", "x0", "velocity"),
        ("num_train_timestep", 500, "run to 1000"),
        ("fake_guidance_scale", 1.0, "not guided"),
        ("min_score_timestep", 40, "whole range"),
        ("independent_first_frame", True, "first block"),
        ("i2v", True, "no image"),
        ("load_raw_video", True, "encoded before"),
        ("generator_cpu_offload", True, "host memory"),
        ("image_or_video_shape", [1, 21, 16, 90, 160], "16 × 60 × 104"),
        ("num_training_frames", 27, "`data.frames: 105`"),
        ("data_max_count", 30000, "cut it"),
        ("mixed_precision", "fp16", "fp32 and bf16 only"),
    ],
)
def test_what_has_no_equivalent_says_why(key, value, why):
    translation = changed(**{key: value})
    found = outcome(translation, key)
    assert not found.fits
    assert why in found.why
    assert not found.settings
    resolve_values(translation.document, "f.yaml", (), PARAMS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ts_schedule", False),
        ("fake_guidance_scale", 0.0),
        ("independent_first_frame", False),
        ("negative_prompt", ""),
        ("text_encoder_cpu_offload", True),
        ("min_num_training_frames", 21),
        ("image_or_video_shape", [2, 30, 16, 60, 104]),
    ],
)
def test_what_is_so_here_is_not_called_missing(key, value):
    assert outcome(changed(**{key: value}), key).fits


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"trainer": "ode"}, "f.yaml: trainer: ode: only `score_distillation`"),
        ({"distribution_loss": "causvid"}, "distribution_loss: causvid is another objective"),
        ({"lr": "fast"}, 'f.yaml: lr: expected a number, got "fast"'),
        ({"guidance_scale": -1.0}, "guidance_scale: expected a number of at least 0"),
        ({"dfake_gen_update_ratio": 0}, "dfake_gen_update_ratio: expected a whole number of at least 1"),
        ({"context_noise": 1000}, "context_noise: expected a timestep"),
        ({"sharding_strategy": "zero3"}, "sharding_strategy: expected full, hybrid_full"),
        ({"generator_type": "both"}, "generator_type: expected causal or bidirectional"),
        ({"image_or_video_shape": [1, 21]}, "image_or_video_shape: expected five numbers"),
        ({"real_name": "SomethingElse"}, 'real_name: "SomethingElse" has no counterpart'),
        ({"generator_ckpt": "${root}/ode.pt"}, r"generator_ckpt: \$\{root\}/ode.pt refers to another value"),
    ],
)
def test_what_cannot_be_translated_is_refused(values, expected):
    with pytest.raises(HarnessError, match=expected):
        changed(**values)


def test_unknown_keys_are_listed_with_what_may_have_been_meant():
    translation = changed(guidance_scal=3.0, zzz=1, model_kwargs={"timestep_shift": 5.0, "flavour": 1})
    assert set(translation.unknown) == {"guidance_scal", "zzz", "model_kwargs.flavour"}
    assert "`guidance_scale`" in translation.unknown["guidance_scal"]
    assert translation.unknown["zzz"] == ""


def test_their_defaults_lie_under_their_file(theirs):
    defaults = read_yaml(theirs / "default_config.yaml")
    translation = of(SELF_FORCING, defaults={**defaults, "same_step_across_blocks": False, "lr": 1.0, "odd": 1})
    assert translation.settings["rollout.exit_step"] == "uniform_per_block"
    assert translation.settings["dmd.generator_optimizer.lr"] == 2e-6
    assert set(translation.unknown) == {"odd"}
    assert of(SELF_FORCING, defaults=defaults).settings == of(SELF_FORCING).settings


def test_what_no_key_says():
    assert any("600 of their iterations" in note for note in of(SELF_FORCING).notes)
    assert any("kv_grad: detach" in note for note in of(SELF_FORCING).notes)
    assert not any("no end" in note for note in changed(max_iters=600).notes)
    assert of(parse_yaml(FILES["self_forcing_14b_dmd"], "f.yaml")).notes[0].endswith("3,000 of their iterations.")


def test_the_file_follows_the_order_of_the_schema():
    keys, order = list(of(SELF_FORCING).settings), leaves(RunConfig)
    assert keys == sorted(keys, key=order.index)
    assert keys[:3] == ["preset", "method", "seed"]


def test_rules_name_only_our_keys():
    known = set(leaves(RunConfig))
    for name in FILES:
        assert set(of(parse_yaml(FILES[name], name)).settings) <= known
    assert len(RULES) > 100
