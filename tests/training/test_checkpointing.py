import pytest
import torch
from torch import nn

from harness.training.checkpointing import load_optimizer_state, optimizer_state


def trained(steps):
    torch.manual_seed(0)
    used, resting = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(
        [{"name": "used", "params": list(used.parameters())}, {"name": "resting", "params": list(resting.parameters())}]
    )
    for step in range(steps):
        optimizer.zero_grad()
        used(torch.full((1, 3), float(step))).square().sum().backward()
        optimizer.step()
    return used, resting, optimizer


def test_moments_come_back_bit_for_bit_and_rest_where_they_rested():
    used, _, optimizer = trained(4)
    saved = optimizer_state(optimizer)
    again_used, again_resting, again = trained(1)
    again_used.load_state_dict(used.state_dict())
    load_optimizer_state(again, saved)
    assert not again.state.get(again_resting.weight)
    for parameter, copy in zip(used.parameters(), again_used.parameters(), strict=True):
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(value, again.state[copy][name])
    for model, stepper in ((used, optimizer), (again_used, again)):
        stepper.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        stepper.step()
    assert torch.equal(used.weight, again_used.weight)
    assert not torch.equal(saved[0]["exp_avg"], optimizer.state[used.weight]["exp_avg"]), "a state is a copy"


def test_a_scalar_parameter_is_not_taken_for_the_step_counter():
    parameter = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.AdamW([{"name": "x", "params": [parameter]}])
    parameter.grad = torch.tensor(2.0)
    optimizer.step()
    saved = optimizer_state(optimizer)
    load_optimizer_state(optimizer, saved)
    assert float(optimizer.state[parameter]["step"]) == 1.0
    assert float(optimizer.state[parameter]["exp_avg"]) == pytest.approx(0.2)


def test_everything_comes_back_to_the_device_of_its_weights():
    _, _, optimizer = trained(2)
    saved = optimizer_state(optimizer)
    assert {value.device.type for known in saved for value in known.values()} == {"cpu"}
    elsewhere = [nn.Parameter(torch.empty(3, 3, device="meta")), nn.Parameter(torch.empty(3, device="meta"))]
    there = torch.optim.AdamW([{"name": "used", "params": elsewhere}])
    load_optimizer_state(there, saved[:2])
    for parameter in elsewhere:
        found = {name: value.device.type for name, value in there.state[parameter].items()}
        assert found == {"step": "meta", "exp_avg": "meta", "exp_avg_sq": "meta"}
