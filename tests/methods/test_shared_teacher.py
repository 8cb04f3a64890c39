import copy

import pytest
import torch
from attrs import evolve
from point_world import make_dmd
from torch import nn

from harness.config.schema import LoRAConfig, RolloutConfig
from harness.methods.draws import Draws
from harness.methods.shared_teacher import SharedTeacher, build_dmd
from harness.models.causal_wan import CausalWan
from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
from harness.models.lora import add_adapters

SHAPE = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


def network(seed):
    torch.manual_seed(seed)
    model = CausalWan(**SHAPE)
    with torch.no_grad():
        model.proj_out.weight.normal_(0, 0.3)
    return model


def method(share):
    generator, critic = network(1), network(2)
    teacher = None if share else copy.deepcopy(critic)
    for seed, model in enumerate((generator, critic)):
        add_adapters(model, LoRAConfig(rank=2, alpha=4.0), seed)
    with torch.no_grad():  # as after some training: base and critic differ
        for name, parameter in [*generator.named_parameters(), *critic.named_parameters()]:
            if "lora_B" in name:
                parameter.fill_(0.05)
    config = evolve(make_dmd().config, cfg_scale=2.0)
    return build_dmd(generator, critic, teacher, config, RolloutConfig(frames_per_block=1, denoising_steps=(1000, 500)))


def batch():
    generator = torch.Generator().manual_seed(0)
    condition = Condition(text=torch.randn(2, 5, 8, generator=generator), unconditional_text=torch.zeros(1, 5, 8))
    return {"latent": torch.zeros(2, 4, 3, 4, 4), "condition": condition}


@pytest.mark.parametrize("phase", ["generator", "critic"])
def test_one_copy_trains_as_two_do(phase):
    found = []
    for share in (False, True):
        dmd = method(share).train()
        dmd.phase, dmd.draws = phase, Draws.at(3, 1)
        outputs = dmd(batch())
        outputs["loss"].backward()
        trained = {name: p for name, p in dmd.named_parameters() if p.requires_grad}
        found.append((outputs, {name: p.grad for name, p in trained.items()}))
    (two, gradients), (one, shared) = found
    assert torch.equal(one["loss"], two["loss"])
    assert one["metrics"].keys() == two["metrics"].keys()
    assert all(torch.equal(one["metrics"][name], two["metrics"][name]) for name in two["metrics"])
    assert gradients.keys() == shared.keys()
    turn = {name for name, gradient in gradients.items() if gradient is not None}
    assert turn == {name for name in gradients if name.startswith(phase)}
    assert all(torch.equal(gradients[name], shared[name]) for name in turn)


def test_there_is_one_copy_and_only_adapters_are_trained():
    dmd = method(share=True)
    assert not list(dmd.teacher.parameters())
    assert not list(dmd.teacher.modules())[1:]
    names = [name for name, p in dmd.named_parameters() if p.requires_grad]
    assert names
    assert all(".lora_" in name and name.startswith(("generator.", "critic.")) for name in names)
    groups = dmd.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_no_gradient_flows_through_it_and_the_critic_keeps_its_adapter():
    dmd = method(share=True)
    x, condition = torch.ones(2, 4, 3, 4, 4, requires_grad=True), batch()["condition"]
    t = torch.full((2,), 500.0)
    before = predict_velocity(dmd.critic, x, t, condition)
    assert not predict_velocity(dmd.teacher, x, t, condition).requires_grad
    assert torch.equal(predict_velocity(dmd.teacher, x, t, condition), predict_velocity(network(2), x, t, condition))
    assert torch.equal(predict_velocity(dmd.critic, x, t, condition), before)
    assert before.requires_grad


def test_it_asks_for_the_network_at_each_call():
    modules = {"critic": nn.Linear(2, 2)}
    teacher, x = SharedTeacher(lambda: modules["critic"]), torch.ones(1, 2)
    first = teacher(x)
    modules["critic"] = nn.Linear(2, 2)  # as when FSDP puts a wrapper there
    assert torch.equal(teacher(x), modules["critic"](x))
    assert not torch.equal(teacher(x), first)
