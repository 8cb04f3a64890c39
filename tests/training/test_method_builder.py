import pytest
import torch

from harness.errors import HarnessError
from harness.models.checkpoint import save_model
from harness.models.presets import build_model
from harness.training.method_builder import build_method, initial_generator


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_random_weights_are_those_of_the_seed(project, small_run):
    state = torch.get_rng_state()
    first, again = (initial_generator(small_run(project, "sft"), project) for _ in range(2))
    other = initial_generator(small_run(project, "sft", "seed=1"), project)
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_roles_of_dmd_start_from_their_weights_and_share_no_memory(project, small_run):
    torch.manual_seed(5)
    save_model(build_model("tiny", zero_output=False), project / "checkpoints/causal_sft/seed0/model")
    method = build_method(small_run(project, "dmd", "init.kind=causal_sft"), project)
    assert same(method.critic, method.teacher)
    assert not same(method.generator, method.teacher)
    pointers = [p.data_ptr() for role in method.networks().values() for p in role.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert [group["name"] for group in method.parameter_groups()] == ["generator", "critic"]


def test_weights_of_another_size_are_refused(project, small_run):
    from harness.models.causal_wan import CausalWan

    small = CausalWan(num_attention_heads=2, attention_head_dim=12, num_layers=1, ffn_dim=8, text_dim=8, freq_dim=8)
    save_model(small, project / "mine")
    config = small_run(project, "causal_sft", "init.kind=checkpoint", "init.path=mine")
    with pytest.raises(HarnessError, match=r"num_layers is 1, `model: tiny` has 4"):
        build_method(config, project)


def test_the_attention_back_end_reaches_every_network_and_a_wrong_one_is_refused(project, small_run):
    method = build_method(small_run(project, "dmd", "init.kind=teacher", "attention_backend=_native_math"), project)
    for network in method.networks().values():
        processors = [attention.processor for b in network.blocks for attention in (b.attn1, b.attn2)]
        assert {p._attention_backend for p in processors} == {"_native_math"}
    with pytest.raises(HarnessError, match="sage has no backward pass"):
        build_method(small_run(project, "sft", "attention_backend=sage"), project)
