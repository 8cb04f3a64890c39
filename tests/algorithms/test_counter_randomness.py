from types import SimpleNamespace

import torch
from composer.core import Event, Time
from torch import nn

from harness.algorithms.counter_randomness import CounterRandomness, draws_at


def drawn(algorithm, method, batch, microbatches):
    """What a method draws in one batch: (local, shared) per microbatch."""
    state = SimpleNamespace(timestamp=SimpleNamespace(batch=Time(batch, "ba")))
    algorithm.apply(Event.BATCH_START, state, None)
    numbers = []
    for _ in range(microbatches):
        algorithm.apply(Event.BEFORE_FORWARD, state, None)
        draws = method.draws
        numbers.append((torch.rand(3, generator=draws.local).tolist(), torch.rand(3, generator=draws.shared).tolist()))
    return numbers


def test_two_processes_draw_what_two_microbatches_draw():
    one, other = nn.Module(), nn.Module()
    together = drawn(CounterRandomness(one, seed=7, microbatches=2), one, batch=5, microbatches=2)
    apart = [
        drawn(CounterRandomness(other, seed=7, rank=rank, microbatches=1), other, batch=5, microbatches=1)[0]
        for rank in range(2)
    ]
    assert together == apart


def test_control_flow_is_shared_and_noise_is_not():
    method = nn.Module()
    (local_0, shared_0), (local_1, shared_1) = drawn(CounterRandomness(method, seed=7, microbatches=2), method, 5, 2)
    assert shared_0 == shared_1
    assert local_0 != local_1
    assert local_0 != shared_0


def test_a_place_has_its_numbers_whatever_came_before():
    method = nn.Module()
    algorithm = CounterRandomness(method, seed=7)
    history = [drawn(algorithm, method, batch, 1) for batch in range(4)]
    fresh = CounterRandomness(method, seed=7)
    assert drawn(fresh, method, 2, 1) == history[2]
    assert len({str(numbers) for numbers in history}) == 4
    assert drawn(CounterRandomness(method, seed=8), method, 2, 1) != history[2]


def test_runs_where_it_must():
    algorithm = CounterRandomness(nn.Module(), seed=0)
    assert [e for e in Event if algorithm.match(e, None)] == [Event.BATCH_START, Event.BEFORE_FORWARD]
    assert draws_at(0, 0, 0).local.initial_seed() != draws_at(0, 0, 1).local.initial_seed()
