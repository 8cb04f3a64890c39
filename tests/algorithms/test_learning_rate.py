from itertools import pairwise
from types import SimpleNamespace

import pytest
from composer.core import Event, Time

from harness.algorithms.learning_rate import RoleLearningRates, rate_factor
from harness.algorithms.updates import UpdateOrder
from harness.config.schema import AdamWConfig


def test_warm_up_hold_and_decay():
    config = AdamWConfig(lr=1.0, warmup_updates=4, hold_fraction=0.5, final_fraction=0.1)
    factors = [rate_factor(k, 21, config) for k in range(21)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(factors[11:]))
    assert factors[15] == pytest.approx(1.0 - 0.9 * (15 - 10.5) / (20 - 10.5))


def test_constant_by_default():
    assert {rate_factor(k, 9, AdamWConfig(lr=3.0)) for k in range(9)} == {1.0}


def test_each_role_counts_its_own_updates():
    order = UpdateOrder(generator_updates=3, ratio=2, warmup=1)
    configs = {
        "generator": AdamWConfig(lr=1.0, warmup_updates=10),
        "critic": AdamWConfig(lr=100.0, warmup_updates=10),
    }
    groups = [{"name": "generator", "lr": -1.0}, {"name": "critic", "lr": -1.0}]
    algorithm = RoleLearningRates(order, configs)
    seen = []
    for batch in range(order.batches):
        state = SimpleNamespace(
            timestamp=SimpleNamespace(batch=Time(batch, "ba")), optimizers=[SimpleNamespace(param_groups=groups)]
        )
        assert algorithm.match(Event.BATCH_START, state)
        algorithm.apply(Event.BATCH_START, state, None)
        seen.append(round(next(g["lr"] for g in groups if g["name"] == order.role(batch)), 6))
    assert seen == [10, 0.1, 20, 30, 0.2, 40, 50, 0.3]  # c g cc g cc g
