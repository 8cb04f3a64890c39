import json
from pathlib import Path

import pytest
from attrs import asdict, evolve

from harness.config.load import load_params, resolve_preset
from harness.errors import HarnessError
from harness.models.image import PATCH
from harness.models.presets import geometry
from harness.planning.scene import RANDOM_CLIP_PATCH, build_scene, count_image_tokens, position_channels

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def scene(name="tiny", method="dmd", **arguments):
    return build_scene(resolve_preset(name, method, [], PARAMS), load_params(PARAMS, name).preset, **arguments)


def test_shapes_come_from_the_preset(tmp_path):
    found = scene("wan2_1-t2v-14b", world_size=8, root=tmp_path)
    assert (found.height, found.width, found.text_length) == (60, 104, 512)
    assert [(role, shape.num_layers) for role, shape in found.networks] == [
        (role, 40) for role in ("generator", "critic", "teacher")
    ]
    assert (found.share, found.microbatch, found.microbatches, found.shards) == (8, 1, 8, 8)
    assert scene(method="sft", root=tmp_path).trained == ("generator",)


def test_the_teachers_size(tmp_path):
    assert dict(scene(teacher="wan2.1-t2v-14b", root=tmp_path).networks)["critic"].num_layers == 40
    config = resolve_preset("tiny", "dmd", [], PARAMS)
    folder = tmp_path / config.teacher / "model"
    folder.mkdir(parents=True)
    written = {**asdict(evolve(geometry("tiny"), num_layers=2)), "_class_name": "x"}
    (folder / "config.json").write_text(json.dumps(written))
    networks = dict(build_scene(config, load_params(PARAMS, "tiny").preset, root=tmp_path).networks)
    assert (networks["generator"].num_layers, networks["teacher"].num_layers) == (4, 2)
    assert networks["teacher"].patch_size == (1, 2, 2)


def test_microbatches(small):
    one = small("sft", "parallelism.device_microbatch_size=3", batch=4)
    assert (one.microbatch, one.microbatches) == (3, 2)
    assert small("sft", "parallelism.device_microbatch_size=9", batch=4).microbatch == 4
    with pytest.raises(HarnessError, match="does not divide over 3"):
        small("sft", batch=4, world_size=3).share  # noqa: B018
    assert small("sft", "parallelism.kind=fsdp2", "parallelism.shard_degree=2", world_size=4).shards == 2
    assert small("sft", world_size=4).shards == 1
    assert small("dmd", "dmd.rollouts_ahead=true", "dmd.critic_updates_per_generator_update=3").rollouts_together == 3


def test_channels_besides_the_image():
    assert position_channels(geometry("wan2.1-i2v-14b-480p")) == 0
    assert position_channels(geometry("wan2.1-t2v-14b")) == 0
    assert position_channels(geometry("tiny")) == position_channels(geometry("tiny-i2v")) == 5


def test_image_tokens_are_those_of_the_presets_encoder(tmp_path):
    image = ["rollout.image_conditioning=channels"]
    for name, tokens in (("tiny", (24 // PATCH) ** 2 + 1), ("wan2_1-i2v-14b-480p", 257)):
        config, preset = resolve_preset(name, "sft", image, PARAMS), load_params(PARAMS, name).preset
        assert build_scene(config, preset, root=tmp_path).image_tokens == tokens
    assert scene("tiny", root=tmp_path).image_tokens == 0
    preset = load_params(PARAMS, "wan2_1-i2v-14b-480p").preset
    folder = tmp_path / preset.encoders.image_encoder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"image_size": 56, "patch_size": 14}))
    assert count_image_tokens(preset, tmp_path) == 17
    assert RANDOM_CLIP_PATCH == PATCH


def test_critic_and_teacher_of_an_image_run_read_the_image(tmp_path):
    preset = load_params(PARAMS, "tiny").preset
    for way, generator in (("first_latent", None), ("channels", 64)):
        config = resolve_preset("tiny", "dmd", [f"rollout.image_conditioning={way}"], PARAMS)
        networks = dict(build_scene(config, preset, root=tmp_path).networks)
        assert (networks["generator"].image_dim, networks["critic"].image_dim) == (generator, 64)
        assert networks["teacher"].image_dim == 64
