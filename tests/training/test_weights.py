import torch
from several_processes import network

from harness.config.schema import LoRAConfig
from harness.formats.adapters import read_adapter
from harness.models.checkpoint import load_model
from harness.models.lora import add_adapters, merge
from harness.training.weights import is_sharded, save_weights


def test_a_network_is_written_as_it_is(tmp_path):
    model = network(1)
    save_weights(model, tmp_path / "model")
    found = load_model(tmp_path / "model").state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in model.state_dict().items())
    assert not (tmp_path / "model/adapter").exists()
    assert not is_sharded(model)


def test_adapters_are_merged_and_written_beside(tmp_path):
    base, model = network(1).state_dict(), network(1)
    add_adapters(model, LoRAConfig(rank=2, alpha=3.0), 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_weights(model, tmp_path / "model")
    updates = read_adapter(tmp_path / "model/adapter")
    assert {update.scale for update in updates.values()} == {1.5}
    found = load_model(tmp_path / "model").state_dict()
    assert found.keys() == base.keys()
    for name, weight in base.items():
        assert torch.equal(found[name], merge(weight, updates[name]) if name in updates else weight), name
        assert torch.equal(found[name], weight) == (name not in updates)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_later_save_replaces_weights_and_adapter(tmp_path):
    model = network(1)
    add_adapters(model, LoRAConfig(rank=2, alpha=3.0, targets=("ffn.net.2",)), 0)
    for value in (0.1, 0.2):
        with torch.no_grad():
            for layer in model.blocks:
                layer.ffn.net[2].lora_B["default"].weight.fill_(value)
        save_weights(model, tmp_path / "model")
        for update in read_adapter(tmp_path / "model/adapter").values():
            assert torch.equal(update.b, torch.full_like(update.b, value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
