import json

import pytest
import torch
from checkpoint_makers import I2V, original_config, random_state
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file

from harness.formats.tensor_stream import Info, from_tensors
from harness.formats.wan_config import check_fit
from harness.formats.writing import split, write_diffusers, write_original, write_self_forcing, write_single_file
from harness.models.checkpoint import load_model
from harness.models.original_names import to_original

STATE = random_state(I2V, dtype=None)
WANTED = from_tensors(STATE)
CONFIG = check_fit(I2V, WANTED.infos, "here")


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_shards_that_stock_diffusers_and_we_load(tmp_path, same, shard_bytes):
    write_diffusers(tmp_path, CONFIG, WANTED, shard_bytes=shard_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes == 20_000)
    assert all(path.stat().st_size < 2 * shard_bytes for path in files)
    same(load_model(tmp_path).state_dict(), STATE)
    model = WanTransformer3DModel.from_pretrained(tmp_path).state_dict()  # stock makes it float32
    same(dict(model), {name: tensor.float() for name, tensor in STATE.items()})
    if len(files) > 1:
        index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == WANTED.nbytes
        assert index["weight_map"] == {name: path.name for path in files for name in load_file(path)}


def test_the_original_folder(tmp_path, same):
    write_original(tmp_path, CONFIG, WANTED, shard_bytes=20_000)
    found = {}
    for path in tmp_path.glob("*.safetensors"):
        found |= load_file(path)
    same(found, to_original(STATE))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config | {"_diffusers_version": "0.30.0"} == original_config(I2V) | {"text_dim": 8}


def test_one_file_has_bare_original_names(tmp_path, same):
    write_single_file(tmp_path / "a.safetensors", WANTED)
    same(load_file(tmp_path / "a.safetensors"), to_original(STATE))


def test_the_state_dict_that_self_forcing_loads(tmp_path, same):
    write_self_forcing(tmp_path / "a.pt", WANTED)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content.keys() == {"generator", "generator_ema"}
    same(content["generator"], {f"model.{name}": tensor for name, tensor in to_original(STATE).items()})


def test_shards_hold_as_much_as_fits():
    infos = {name: Info((size,), torch.float32) for name, size in (("a", 2), ("b", 2), ("c", 9), ("d", 1), ("e", 1))}
    assert split(infos, 16) == [["a", "b"], ["c"], ["d", "e"]]
    assert split(infos, 15) == [["a"], ["b"], ["c"], ["d", "e"]]
    assert split(infos, 10**6) == [list(infos)]
    assert split({"c": infos["c"], "a": infos["a"]}, 16) == [["c"], ["a"]]  # no empty file before a large tensor
