import json
from pathlib import Path

import pytest
from attrs import asdict, evolve

from harness.config.load import load_params, resolve_preset
from harness.errors import HarnessError
from harness.models.presets import geometry
from harness.planning.scene import build_scene, condition_channels, image_tokens

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


def test_image_to_video_has_more_inputs():
    shape = geometry("wan2.1-i2v-14b-480p")
    assert (condition_channels(shape), image_tokens(shape)) == (20, 257)
    assert image_tokens(geometry("tiny")) == 0
