"""LongLive's second stage, and what else came with it: streaming, changing prompts, adapters, lists of prompts."""

import math
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from their_files import FILES

from harness.config.checks import fixed_chunks
from harness.config.documents import merge, parse_yaml
from harness.config.foreign.translate import Translation, translate
from harness.config.load import load_params, resolve_values
from harness.errors import HarnessError

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"
PRESETS = {name: load_params(PARAMS, name).preset for name in load_params(PARAMS).raw["presets"]}
BLURRED = {  # presets that have the negative prompt of the files
    name: evolve(preset, encoders=evolve(preset.encoders, negative_prompt="blurred"))
    for name, preset in PRESETS.items()
}


def of(name: str, **values: Any) -> Translation:
    """A file of theirs with other values; `None` takes a key out."""
    merged = merge(parse_yaml(FILES[name], name), values)
    return translate({key: value for key, value in merged.items() if value is not None}, PRESETS, where="f.yaml")


def long(**values: Any) -> Translation:
    return of("longlive_train_long", **values)


def outcome(translation: Translation, key: str):
    return next(entry.outcome for entry in translation.entries if entry.key == key)


def resolved(translation: Translation):
    return resolve_values(translation.document, "f.yaml", (), PARAMS)


def test_the_second_stage():
    run = resolved(long())
    tuning = run.long_tuning
    assert (run.frames, tuning.enabled, tuning.max_frames, tuning.switch_probability) == (21, True, 240, 1.0)
    assert (tuning.min_new_frames, tuning.max_new_frames) == (18, 18), "their trainer never draws a whole clip"
    assert (run.lora.rank, run.lora.alpha, run.lora.targets) == (256, 256.0, ("all",))
    assert (run.rollout.window, run.rollout.sink, run.rollout.on_switch) == (12, 3, "recache")
    assert (run.rollout.gradient_frames, run.rollout.rope) == (21, "absolute")
    assert (run.dmd.generator_optimizer.lr, run.dmd.critic_optimizer.lr) == (1e-5, 2e-6)
    assert (run.dmd.generator_updates, run.dmd.ema_decay) == (600, 0.0)
    assert (run.init.path, run.prompts) == ("pretrained/longlive_init", "data/prompts")
    assert fixed_chunks(run) == 13


def test_what_is_left_of_the_second_stage():
    missing = {entry.key for entry in long().entries if not entry.outcome.fits}
    assert {key for key in missing if not key.startswith(("vis_", "val_", "wandb_"))} == {"switch_prompt_path"}
    assert "here it is another prompt" in outcome(long(), "switch_prompt_path").why
    notes = " ".join(long().notes)
    assert "critic learns from the whole clip" in notes
    assert "max_iters then counts the iterations before" in notes
    assert not any("critic" in note for note in of("longlive_train_init").notes)


def test_adapters_go_on_the_weights_that_were_trained_not_on_their_average():
    first = next(words for words in long().to_do if "longlive_init" in words)
    assert first.endswith("--out pretrained/longlive_init --weights raw")
    for other in (of("longlive_train_init"), of("longlive_inference", use_ema=None)):
        assert not any("--weights" in words for words in other.to_do)


@pytest.mark.parametrize(
    ("values", "length", "why"),
    [
        ({}, 240, ""),
        ({"streaming_max_length": 129}, 129, ""),
        ({"streaming_max_length": 222}, 201, "not 222: of its 12 chunks"),
        ({"streaming_max_length": 60, "switch_choices": [21]}, 93, "93 (5 chunks) is the nearest"),
        ({"streaming_max_length": None, "switch_choices": [21]}, 93, "not 57: of its 3 chunks"),
        ({"streaming_max_length": 222, "streaming_min_new_frame": 15}, 222, ""),
        ({"streaming_max_length": 39, "switch_choices": [21]}, 93, "not 39"),
        ({"streaming_max_length": 222, "dfake_gen_update_ratio": 4}, 222, ""),
    ],
)
def test_a_length_whose_chunks_share_a_divisor_with_the_cycle_is_not_taken_silently(values, length, why):
    translation = long(**values)
    assert translation.settings["long_tuning.max_frames"] == length
    found = outcome(translation, "streaming_max_length")
    assert why in found.why
    assert bool(found.why) == bool(why)
    chunks = fixed_chunks(resolved(translation))
    assert chunks is None or math.gcd(chunks, 1 + resolved(translation).dmd.critic_updates_per_generator_update) == 1


def test_lengths_that_are_drawn():
    translation = long(streaming_min_new_frame=12, streaming_possible_max_length=[57, 240, 120])
    settings = translation.settings
    assert (settings["long_tuning.min_new_frames"], settings["long_tuning.max_new_frames"]) == (12, 18)
    assert "12, 15, 18" in outcome(translation, "streaming_min_new_frame").why
    assert settings["long_tuning.max_frames"] == 240
    assert "grow to the longest" in outcome(translation, "streaming_possible_max_length").why
    assert "read instead" in outcome(translation, "streaming_max_length").why


def test_without_streaming_nothing_of_it_is_translated():
    run = resolved(of("longlive_train_init", streaming_training=False, streaming_chunk_size=12, train_first_chunk=True))
    assert not run.long_tuning.enabled
    assert run.frames == 21
    switching = long(streaming_training=False)
    assert not outcome(switching, "distribution_loss").fits
    assert resolved(switching).long_tuning.switch_probability == 0.0
    assert "no prompt changes" in outcome(switching, "switch_mode").why
    assert "without streaming_training" in outcome(switching, "streaming_max_length").why


def test_streaming_with_one_prompt():
    translation = long(distribution_loss="dmd", switch_prompt_path=None, switch_mode=None, switch_choices=None)
    run = resolved(translation)
    assert (run.long_tuning.enabled, run.long_tuning.switch_probability) == (True, 0.0)


@pytest.mark.parametrize(
    ("values", "fits", "why"),
    [
        ({}, True, "one of 11 chunks"),
        ({"switch_choices": [21, 39, 57, 300]}, True, "one of 3 chunks"),
        ({"switch_choices": [21, 30]}, False, "within a chunk too"),
        ({"switch_choices": [9, 39]}, False, "within a chunk too"),
        ({"switch_mode": None}, False, "always at latent frame 21"),
        ({"switch_mode": "fixed", "fixed_switch_index": 39}, False, "always at latent frame 39"),
        (
            {"switch_mode": "random", "min_switch_frame_index": 21, "max_switch_frame_index": 60},
            False,
            "within a chunk",
        ),
        ({"streaming_min_new_frame": 12, "switch_choices": [21, 33]}, False, "within a chunk too"),
    ],
)
def test_where_a_prompt_changes(values, fits, why):
    translation = long(**values)
    found = outcome(translation, "switch_mode")
    assert found.fits == fits
    assert why in found.why
    assert not found.settings
    assert resolved(translation).long_tuning.switch_probability == 1.0


def test_the_places_of_a_switch_are_told_with_its_mode():
    assert outcome(long(), "switch_choices").why == "see switch_mode"
    assert outcome(long(switch_mode="fixed"), "switch_choices").why == "not read there with switch_mode: fixed"
    assert not outcome(long(switch_choices=[21, 30]), "switch_choices").fits


@pytest.mark.parametrize(
    ("file", "key", "value", "settings"),
    [
        ("longlive_train_long", "global_sink", True, {"rollout.on_switch": "recache_keep_sink"}),
        ("longlive_train_long", "global_sink", None, {"rollout.on_switch": "recache"}),
        ("longlive_inference", "global_sink", True, {"rollout.on_switch": "recache_keep_sink"}),
        ("longlive_train_long", "adapter", {"alpha": None, "rank": 64}, {"lora.rank": 64, "lora.alpha": 64.0}),
        ("longlive_train_long", "adapter", {"alpha": 32}, {"lora.rank": 256, "lora.alpha": 32.0}),
        ("longlive_train_long", "streaming_chunk_size", None, {"frames": 21}),
        ("longlive_train_long", "num_training_frames", 18, {"frames": 21}),
        ("longlive_train_long", "slice_last_frames", 6, {"rollout.gradient_frames": 21}),
        ("longlive_inference", "model_kwargs", {"use_infinite_attention": True}, {"rollout.rope": "relative"}),
        ("longlive_inference", "model_kwargs", {"use_infinite_attention": False}, {"rollout.rope": "absolute"}),
    ],
)
def test_values_are_converted(file, key, value, settings):
    translation = of(file, **{key: value})
    assert {name: translation.settings.get(name) for name in settings} == settings
    resolved(translation)


def test_an_adapter_without_a_rank_has_theirs():
    document = {**parse_yaml(FILES["longlive_train_long"], "f.yaml"), "adapter": {"type": "lora"}}
    settings = translate(document, PRESETS, where="f.yaml").settings
    assert (settings["lora.rank"], settings["lora.alpha"]) == (16, 16.0)


@pytest.mark.parametrize(
    ("values", "key", "why"),
    [
        ({"train_first_chunk": False}, "train_first_chunk", "only made"),
        ({"train_first_chunk": None}, "train_first_chunk", "only made"),
        ({"adapter": {"apply_to_critic": False}}, "adapter.apply_to_critic", "all of the critic's weights"),
        ({"lora_ckpt": "models/lora.pt"}, "lora_ckpt", "new adapters begin"),
        ({"streaming_chunk_size": 24}, "streaming_chunk_size", "`data.frames: 93`"),
    ],
)
def test_what_has_no_equivalent_says_why(values, key, why):
    found = outcome(long(**values), key)
    assert not found.fits
    assert why in found.why


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"streaming_min_new_frame": 21},
            r"streaming_min_new_frame: expected fewer frames than streaming_chunk_size \(21\)",
        ),
        ({"switch_mode": "often"}, "switch_mode: expected fixed, random, random_choice"),
        ({"switch_choices": [240, 300]}, r"switch_choices: expected frames below the longest sequence \(240\)"),
        ({"adapter": {"type": "dora"}}, "adapter.type: expected lora"),
        ({"switch_frame_indices": "soon"}, "switch_frame_indices: expected latent frames"),
    ],
)
def test_what_cannot_be_translated_is_refused(values, expected):
    with pytest.raises(HarnessError, match=expected):
        long(**values)


@pytest.mark.parametrize("given", ["48, 96", [48, 96]])
def test_prompts_of_a_sampled_video_are_given_to_sample(given):
    translation = of("longlive_inference", switch_frame_indices=given)
    assert '--prompt "189: …" --prompt "381: …"' in outcome(translation, "switch_frame_indices").why
    assert all("merged" in entry.outcome.why for entry in translation.entries if entry.key.startswith("adapter."))


def test_a_list_of_prompts_is_encoded_first():
    translation = of("self_forcing_dmd", data_path="my prompts/list.txt")
    assert resolved(translation).prompts == "data/prompts"
    assert translation.to_do[-1] == "python -m harness prompts 'my prompts/list.txt' --out data/prompts"
    assert "`preset: wan2_1-t2v-1_3b`" in outcome(translation, "data_path").why
    folder = of("self_forcing_14b_dmd")
    assert "a line for each" in outcome(folder, "data_path").why
    assert folder.to_do[-1] == "python -m harness prompts LIST.txt --out data/prompts"


def test_prompts_that_need_an_image_or_a_command_line_are_not_encoded():
    cases = (
        (of("self_forcing_14b_i2v_dmd"), "first frame"),
        (of("self_forcing_14b_i2v_dmd", i2v=False), "first frame"),
        (of("self_forcing_dmd", i2v=True), "first frame"),
        (of("longlive_inference"), "command line"),
    )
    for translation, why in cases:
        assert why in outcome(translation, "data_path").why
        assert resolved(translation).prompts is None
        assert not any("harness prompts" in words for words in translation.to_do)


def test_what_is_to_be_done_first_is_in_order():
    starts = ["in params.yaml", "python -m harness import", "python -m harness prompts"]
    backwards = dict(reversed(parse_yaml(FILES["longlive_train_long"], "f.yaml").items()))
    for to_do in (long().to_do, translate(backwards, PRESETS, where="f.yaml").to_do):
        found = [next(place for place, start in enumerate(starts) if words.startswith(start)) for words in to_do]
        assert found == [0, 1, 1, 2]


def test_the_negative_prompt_is_the_presets():
    found = outcome(of("self_forcing_dmd"), "negative_prompt")
    assert (found.fits, found.settings) == (True, {})
    assert found.to_do is not None
    assert "has to be the negative_prompt of f.yaml" in found.to_do
    document = parse_yaml(FILES["self_forcing_dmd"], "f.yaml")
    same = translate(document, BLURRED, where="f.yaml")
    assert outcome(same, "negative_prompt").to_do is None
    empty = translate({**document, "negative_prompt": ""}, BLURRED, where="f.yaml")
    assert "has to be null" in (outcome(empty, "negative_prompt").to_do or "")
    assert outcome(of("self_forcing_dmd", negative_prompt=""), "negative_prompt").to_do is None
    assert outcome(of("longlive_inference", negative_prompt="ugly"), "negative_prompt").to_do is None
