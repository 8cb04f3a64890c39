import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from wan_helpers import SMALL_I2V, small_condition, small_wan

from harness.config.schema import LoRAConfig
from harness.errors import HarnessError
from harness.models.checkpoint import load_model, plain_model, save_model
from harness.models.denoiser import predict_velocity
from harness.models.lora import (
    Update,
    adapter_files,
    adapters_off,
    add_adapters,
    choose,
    has_adapters,
    linear_names,
    merge,
    merged_state,
    scale_of,
    updates_in,
    write_adapter,
)

RANK, ALPHA = 3, 6.0


def adapted(seed=5, trained=True, **changes):
    """A network with adapters; trained ones have a B that is not zero."""
    network = small_wan(**{**changes})
    add_adapters(network, LoRAConfig(rank=RANK, alpha=ALPHA), seed)
    if trained:
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def velocity(network, frames=None):
    x = torch.randn(2, 4, 3, 2, 4, generator=torch.Generator().manual_seed(2))
    condition = small_condition(frames=frames)
    return predict_velocity(network, x, torch.tensor([300.0, 800.0]), condition)


def test_every_linear_layer_of_the_blocks_gets_one_and_nothing_else_is_trained():
    network, plain = adapted(trained=False, **SMALL_I2V), small_wan(**SMALL_I2V)
    wanted = {
        name for name, module in plain.named_modules() if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }
    assert len(wanted) == 2 * (4 + 4 + 2 + 2)  # of each layer: two attentions, image keys and values, feed-forward
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert {name.split(".lora_")[0] for name in trained} == wanted
    assert len(trained) == 2 * len(wanted)
    for name, parameter in trained.items():
        a_side = "lora_A" in name
        assert parameter.shape[0 if a_side else 1] == RANK
        assert bool(parameter.any()) == a_side


@pytest.mark.parametrize("geometry", [{}, SMALL_I2V], ids=["text", "image"])
def test_a_new_adapter_changes_no_bit_of_what_the_network_computes(geometry):
    frames = 3 if geometry else None
    plain, network = small_wan(**geometry), adapted(trained=False, **geometry)
    assert torch.equal(velocity(network, frames), velocity(plain, frames))
    assert not torch.equal(velocity(adapted(**geometry), frames), velocity(plain, frames))


def test_the_seed_decides_and_the_global_state_stays():
    state = torch.get_rng_state()
    networks = [small_wan() for _ in range(3)]
    torch.set_rng_state(state)
    for network, seed in zip(networks, (5, 5, 6), strict=True):
        add_adapters(network, LoRAConfig(rank=RANK, alpha=ALPHA), seed)
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = ({n: p for n, p in network.named_parameters() if "lora_A" in n} for network in networks)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_what_an_adapter_adds_is_alpha_over_rank_times_b_a_x():
    network = adapted()
    layer = network.blocks[1].ffn.net[2]
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), layer.base_layer(x) + ALPHA / RANK * (x @ a.T @ b.T))
    assert scale_of(network) == ALPHA / RANK


def test_names_and_ends_of_names_choose_layers():
    names = linear_names(small_wan())
    assert choose(names, ("all",)) == names
    assert choose(names, ("to_q", "attn1.to_k")) == [
        n for n in names if n.endswith(".to_q") or n.endswith(".attn1.to_k")
    ]
    assert choose(names, ("blocks.1.ffn.net.2",)) == ["blocks.1.ffn.net.2"]
    with pytest.raises(HarnessError, match=r"lora.targets: o_q is no linear layer.*attn1.to_k, .*ffn.net.2"):
        choose(names, ("to_k", "o_q"))
    network = small_wan()
    add_adapters(network, LoRAConfig(rank=2, alpha=2.0, targets=("attn2.to_v",)), 0)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained == [f"blocks.{n}.attn2.to_v.lora_{side}.default.weight" for n in range(2) for side in ("A", "B")]


def test_off_it_is_the_base_and_afterwards_the_same_as_before():
    plain, network = small_wan(), adapted()
    before = velocity(network)
    trained = [p.requires_grad for p in network.parameters()]
    with adapters_off(network):
        assert torch.equal(velocity(network), velocity(plain))
        assert [p.requires_grad for p in network.parameters()] == trained
    assert torch.equal(velocity(network), before)
    with pytest.raises(ZeroDivisionError), adapters_off(network):
        _ = 1 / 0
    assert torch.equal(velocity(network), before)


@pytest.mark.parametrize("geometry", [{}, SMALL_I2V], ids=["text", "image"])
def test_merged_it_is_a_plain_network_that_computes_the_same(geometry):
    frames = 3 if geometry else None
    plain, network = small_wan(**geometry), adapted(**geometry)
    state = network.state_dict()
    merged = plain_model(network, state)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert not has_adapters(merged)
    assert has_adapters(network)
    torch.testing.assert_close(velocity(merged, frames), velocity(network, frames), rtol=1e-4, atol=1e-5)
    changed = {n for n, w in merged.state_dict().items() if not torch.equal(w, plain.state_dict()[n])}
    assert changed == {f"{name}.weight" for name in linear_names(plain)}
    assert all(torch.equal(network.state_dict()[name], weight) for name, weight in state.items())


def test_before_training_the_merged_weights_are_the_bases_bit_for_bit():
    plain, network = small_wan().state_dict(), adapted(trained=False)
    merged = merged_state(network.state_dict(), scale_of(network))
    assert plain.keys() == merged.keys()
    assert all(torch.equal(plain[name], merged[name]) for name in plain)


def test_a_merge_in_bf16_is_rounded_once():
    torch.manual_seed(0)
    weight, a, b = torch.randn(8, 8).bfloat16(), torch.randn(2, 8).bfloat16(), torch.randn(8, 2).bfloat16()
    wanted = (weight.double() + 0.5 * (b.double() @ a.double())).float().bfloat16()
    assert torch.equal(merge(weight, Update(a, b, 0.5)), wanted)
    assert merge(weight.double(), Update(a, b, 0.5)).dtype == torch.float64


def test_a_saved_network_is_merged_and_its_adapter_lies_beside_as_peft_reads_it(tmp_path):
    network, plain = adapted(), small_wan()
    save_model(plain, tmp_path / "base")
    save_model(network, tmp_path / "model", adapter=updates_in(network.state_dict(), scale_of(network)))
    loaded = load_model(tmp_path / "model")
    torch.testing.assert_close(velocity(loaded), velocity(network), rtol=1e-4, atol=1e-5)
    assert (tmp_path / "model/config.json").read_text() == (tmp_path / "base/config.json").read_text()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "adapter",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    config = json.loads((tmp_path / "model/adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (RANK, ALPHA, "LORA")
    assert config["target_modules"] == sorted(linear_names(plain))
    by_peft = PeftModel.from_pretrained(plain, str(tmp_path / "model/adapter"))
    assert torch.equal(velocity(by_peft.base_model.model), velocity(network))


def test_a_network_with_a_new_adapter_is_saved_as_its_base(tmp_path):
    save_model(small_wan(), tmp_path / "base")
    save_model(adapted(trained=False), tmp_path / "init")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "base" / name).read_bytes() == (tmp_path / "init" / name).read_bytes()
    assert not (tmp_path / "init/adapter").exists()


def test_the_files_of_an_adapter_are_the_same_every_time(tmp_path):
    updates = updates_in(adapted().state_dict(), 2.0)
    for name, order in (("a", list(updates)), ("b", list(reversed(updates)))):
        write_adapter(tmp_path / name, {key: updates[key] for key in order})
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(load_file(tmp_path / "a/adapter_model.safetensors")) == 2 * len(updates)


def test_updates_of_several_ranks_are_no_one_adapter():
    one, other = Update(torch.ones(2, 4), torch.ones(4, 2), 1.0), Update(torch.ones(3, 4), torch.ones(4, 3), 1.0)
    with pytest.raises(AssertionError, match="not of one adapter"):
        adapter_files({"x.weight": one, "y.weight": other})
