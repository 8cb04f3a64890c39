import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.algorithms.updates import UpdateOrder


def test_warm_up_then_generator_first_then_critics():
    order = UpdateOrder(generator_updates=3, ratio=2, warmup=2)
    roles = [order.role(batch)[0] for batch in range(order.batches)]
    assert "".join(roles) == "cc" + "gcc" + "gcc" + "g"
    assert order.total("generator") == 3
    assert order.total("critic") == 2 + 2 * 2


def test_supervised_training_is_all_generator():
    order = UpdateOrder(generator_updates=5)
    assert order.batches == 5
    assert {order.role(batch) for batch in range(5)} == {"generator"}


@given(updates=st.integers(1, 30), ratio=st.integers(0, 7), warmup=st.integers(0, 9), fraction=st.floats(0, 1))
def test_counts_are_those_of_the_roles(updates, ratio, warmup, fraction):
    order = UpdateOrder(generator_updates=updates, ratio=ratio, warmup=warmup)
    batches = round(fraction * order.batches)
    roles = [order.role(batch) for batch in range(batches)]
    assert order.done(batches) == {"generator": roles.count("generator"), "critic": roles.count("critic")}
    assert order.role(order.batches - 1) == "generator"
    assert order.total("generator") == updates


def test_refuses_nothing_to_do():
    with pytest.raises(ValueError, match="generator_updates"):
        UpdateOrder(generator_updates=0)


def test_critic_updates_in_a_row():
    order = UpdateOrder(generator_updates=3, ratio=2, warmup=3)
    assert [order.critic_updates_from(batch) for batch in range(order.batches)] == [3, 2, 1, 0, 2, 1, 0, 2, 1, 0]
    assert UpdateOrder(generator_updates=2).critic_updates_from(1) == 0
