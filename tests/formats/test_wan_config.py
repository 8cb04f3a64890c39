import pytest
import torch
from attrs import asdict
from checkpoint_makers import I2V, T2V, original_config, random_state

from harness.errors import HarnessError
from harness.formats.tensor_stream import Info, from_tensors
from harness.formats.wan_config import (
    check_fit,
    config_from_diffusers,
    config_from_original,
    config_from_shapes,
    config_without_file,
    differences,
    looks_like,
    preset_config,
    resemblance,
    to_original_config,
)
from harness.models.causal_wan import CausalWan
from harness.models.presets import MODELS


def infos(geometry):
    return from_tensors(random_state(geometry)).infos


def meta_infos(geometry):
    with torch.device("meta"):
        return from_tensors(CausalWan(**geometry).state_dict()).infos


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_presets_own_shapes_are_recognised(name):
    geometry = asdict(MODELS[name]) | {"num_layers": 1}  # building 40 meta layers says no more than one
    found = config_from_shapes(meta_infos(geometry), "here") | {"num_layers": MODELS[name].num_layers}
    assert name in looks_like(found)
    assert all(MODELS[other] == MODELS[name] for other in looks_like(found))
    assert differences(geometry, preset_config(name)) == [
        f"num_layers is 1, not {MODELS[name].num_layers}",
    ]


def test_wans_published_configs_are_the_presets():
    published = {  # of the repositories Wan-AI/Wan2.1-T2V-1.3B, -T2V-14B and -I2V-14B-480P
        "wan2.1-t2v-1.3b": {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30, "in_dim": 16},
        "wan2.1-t2v-14b": {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "in_dim": 16},
        "wan2.1-i2v-14b-480p": {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "in_dim": 36},
    }
    for name, own in published.items():
        raw = {"out_dim": 16, "freq_dim": 256, "eps": 1e-6, "text_len": 512, **own}
        shapes = meta_infos(asdict(MODELS[name]) | {"num_layers": 1})
        config = config_from_original(raw, shapes, "here")
        assert not differences(config, preset_config(name))
        assert name in looks_like(config)
        assert to_original_config(config) == raw | {
            "_class_name": "WanModel",
            "model_type": "i2v" if "i2v" in name else "t2v",
        }


@pytest.mark.parametrize("geometry", [T2V, I2V], ids=["t2v", "i2v"])
def test_original_configs_there_and_back(geometry):
    config = check_fit(
        config_from_original(original_config(geometry), infos(geometry), "here"), infos(geometry), "here"
    )
    raw = to_original_config(config)
    assert raw | {"_diffusers_version": "0.30.0"} == original_config(geometry) | {"text_dim": 8}
    assert config_from_original(raw, infos(geometry), "here").items() <= config.items()


def test_bare_weights_need_a_preset_with_their_shapes(small_presets):
    assert config_without_file(infos(T2V), None, "here") == preset_config("small")
    assert config_without_file(infos(I2V), "small-i2v", "here") == preset_config("small-i2v")
    with pytest.raises(
        HarnessError, match=r"not of preset small: .*image_dim is 6, not None.*looks like preset small-i2v"
    ):
        config_without_file(infos(I2V), "small", "here")
    with pytest.raises(HarnessError, match=r"nearest is small \(ffn_dim is 48, not 32\)"):
        config_without_file(infos(T2V | {"ffn_dim": 48}), None, "here")
    with pytest.raises(HarnessError, match="expected one of"):
        config_without_file(infos(T2V), "smal", "here")
    with pytest.raises(HarnessError, match=r"missing parameter proj_out.weight"):
        config_without_file({n: i for n, i in infos(T2V).items() if n != "proj_out.weight"}, None, "here")


def test_a_config_and_weights_of_different_networks(small_presets):
    with pytest.raises(HarnessError, match=r"missing.*By its shapes it looks like preset small; the config is that of"):
        check_fit(preset_config("small-i2v"), infos(T2V), "here")
    with pytest.raises(HarnessError, match="does not describe a Wan transformer"):
        check_fit({"num_layers": "two"}, infos(T2V), "here")
    with pytest.raises(HarnessError, match="not those of a whole Wan transformer"):
        check_fit(preset_config("small"), {"x": Info((1,), torch.float32)}, "here")
    with pytest.raises(HarnessError, match=r"dim 24 does not divide into num_heads 5"):
        config_from_original(original_config(T2V) | {"num_heads": 5}, infos(T2V), "here")


def test_words_for_an_unknown_network():
    found = config_from_shapes(infos(T2V), "here")
    assert resemblance(found).startswith("it looks like no preset; nearest is tiny (")
    assert config_from_diffusers({"_class_name": "x", "num_layers": 3}) == {"num_layers": 3}
