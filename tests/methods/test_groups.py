import pytest
from torch import nn

from harness.config.schema import AdamWConfig
from harness.methods.groups import optimizer_group


def test_only_trainable_parameters_are_listed():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    group = optimizer_group("critic", network, AdamWConfig(lr=0.5, betas=(0.0, 0.9), weight_decay=0.25))
    assert group == {
        "name": "critic",
        "params": list(network[1].parameters()),
        "lr": pytest.approx(0.5),
        "betas": (0.0, 0.9),
        "weight_decay": 0.25,
    }
