import json
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from wan_helpers import SMALL, SMALL_I2V, small_wan

from harness.errors import HarnessError
from harness.models.causal_wan import CausalWan
from harness.models.checkpoint import WEIGHTS, load_model, load_state, save_model


def assert_equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def folder(tmp_path):
    save_model(small_wan(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("geometry", [SMALL, SMALL_I2V])
def test_round_trip_is_bit_exact(tmp_path, geometry):
    model = small_wan(**geometry)
    save_model(model, tmp_path / "a" / "model")
    loaded = load_model(tmp_path / "a" / "model")
    assert_equal_states(loaded, model)
    assert isinstance(loaded, CausalWan)
    assert all(p.device.type == "cpu" and p.requires_grad for p in loaded.parameters())
    assert {name: tuple(v) if isinstance(v, list) else v for name, v in loaded.config.items() if name in geometry} == (
        geometry
    )
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model"]


def test_the_stock_class_loads_ours_and_ours_loads_the_stock(folder, tmp_path):
    assert_equal_states(WanTransformer3DModel.from_pretrained(folder), small_wan())
    assert_equal_states(CausalWan.from_pretrained(folder), small_wan())
    stock = WanTransformer3DModel(**SMALL)
    stock.save_pretrained(tmp_path / "stock")
    assert_equal_states(load_model(tmp_path / "stock"), stock)
    assert_equal_states(CausalWan.from_pretrained(tmp_path / "stock"), stock)
    assert json.loads((folder / "config.json").read_text())["_class_name"] == "WanTransformer3DModel"


def test_shards_and_half_precision(tmp_path):
    model = small_wan().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert_equal_states(load_model(tmp_path / "sharded"), model)
    assert {p.dtype for p in load_model(tmp_path / "sharded", dtype=torch.float32).parameters()} == {torch.float32}
    next((tmp_path / "sharded").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(HarnessError, match=r"no weights at .*-00002-of-"):
        load_model(tmp_path / "sharded")


def test_saving_again_replaces_the_folder_with_the_same_bytes(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "stale").touch()
    save_model(small_wan(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_failed_save_leaves_the_old_folder(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    model = small_wan(seed=5)
    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, folder)
    assert_equal_states(load_model(folder), small_wan())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_save_that_cannot_put_the_new_folder_in_place_restores_the_old_one(folder, monkeypatch):
    rename = Path.rename

    def fail_for_new(path, target):
        if path.name == "new":
            raise OSError("no space for the entry")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="no space"):
        save_model(small_wan(seed=5), folder)
    assert_equal_states(load_model(folder), small_wan())
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def change_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("proj_out.bias"), "1 missing: proj_out.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"proj_out.bias": torch.zeros(3)}), r"proj_out.bias \[3\] instead of \[16\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, words):
    change_weights(folder, change)
    with pytest.raises(HarnessError, match=words):
        load_model(folder)


def test_damaged_folders_are_named(folder, tmp_path):
    with pytest.raises(HarnessError, match=r"nowhere.*config\.json"):
        load_model(tmp_path / "nowhere")
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(HarnessError, match="truncated or damaged"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(HarnessError, match="no weights at"):
        load_model(folder)
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(HarnessError, match="_class_name is 'UNet2DModel'"):
        load_model(folder)


def test_a_refused_state_leaves_the_model_as_it_was():
    model = small_wan()
    with pytest.raises(HarnessError, match=r"here: .*missing"):
        load_state(model, {"proj_out.bias": torch.zeros(16)}, "here")
    assert_equal_states(model, small_wan())
