from types import SimpleNamespace

import pytest
import torch
from composer.core import DataSpec, Event, Time
from torch import nn

from harness.algorithms.counter_randomness import CounterRandomness, draws_at
from harness.algorithms.rollouts_ahead import RolloutsAhead
from harness.algorithms.updates import UpdateOrder
from harness.data.loader import LookAhead, size_of, split_batch
from harness.models.condition import Condition


def make_batch(number):
    text = torch.tensor([10.0 * number + n for n in range(4)]).reshape(4, 1, 1)
    return {
        "latent": torch.full((4, 1, 3, 1, 1), float(number)),
        "condition": Condition(text=text),
        "key": list("abcd"),
    }


class Run:
    """The Trainer's part: gives the batches out in order and runs the events, two microbatches to a batch."""

    def __init__(self, length=20, order=None):
        self.method = nn.Module()
        self.order = order or UpdateOrder(generator_updates=4, ratio=3, warmup=5)
        self.loader = LookAhead([make_batch(number) for number in range(length)])
        data = DataSpec(self.loader, split_batch=split_batch, get_num_samples_in_batch=size_of)
        data.batch_transforms = lambda batch: batch | {"latent": batch["latent"][:, :, :2]}
        randomness = CounterRandomness(self.method, seed=7, rank=1, microbatches=2)
        self.algorithm = RolloutsAhead(self.method, self.order, data, self.loader, randomness)
        self.given = iter(self.loader)
        self.length = length
        self.batch = -1

    def state(self):
        return SimpleNamespace(
            timestamp=SimpleNamespace(batch=Time(self.batch, "ba"), batch_in_epoch=Time(self.batch, "ba")),
            dataloader_len=Time(self.length, "ba"),
            device_train_microbatch_size=2,
            device=SimpleNamespace(batch_to_device=lambda batch: batch),
        )

    def step(self):
        """One batch; what each microbatch was given, as (numbers of the batches to come, samples that wait)."""
        self.batch += 1
        assert next(self.given)["latent"][0, 0, 0, 0, 0] == self.batch
        state, seen = self.state(), []
        self.algorithm.apply(Event.BATCH_START, state, None)
        for microbatch in range(2):
            self.algorithm.apply(Event.BEFORE_FORWARD, state, None)
            upcoming, made = self.method.upcoming, self.method.made
            seen.append(([int(like[0, 0, 0, 0, 0]) for like, _, _ in upcoming], len(made)))
            if self.order.role(self.batch) == "critic":  # as the method does
                if not made:
                    later = range(self.batch + 1, self.batch + 1 + len(upcoming))
                    made += [{"x": (batch, microbatch)} for batch in (self.batch, *later)]
                assert made.pop(0)["x"] == (self.batch, microbatch)
        return seen


def test_groups_are_the_updates_between_two_of_the_generator():
    run = Run()
    given = [run.step() for _ in range(run.order.batches)]
    assert all(first == second for first, second in given)
    assert [first for first, _ in given[:10]] == [
        ([1, 2], 0),  # five critic updates to warm up: a group of three and one of two
        ([], 2),
        ([], 1),
        ([4], 0),
        ([], 1),
        ([], 0),  # the generator
        ([7, 8], 0),
        ([], 2),
        ([], 1),
        ([], 0),
    ]


def test_a_group_ends_with_the_epoch():
    run = Run(length=8)
    assert [run.step()[0] for _ in range(8)][6:] == [([7], 0), ([], 1)]


def test_what_is_given_is_what_the_later_update_will_have():
    run = Run()
    run.batch = 0
    next(run.given)
    state = run.state()
    run.algorithm.apply(Event.BATCH_START, state, None)
    for microbatch in range(2):
        run.algorithm.apply(Event.BEFORE_FORWARD, state, None)
        for batch, (like, condition, draws) in enumerate(run.method.upcoming, start=1):
            assert like.shape == (2, 1, 2, 1, 1)  # prepared and cut
            assert condition.text.flatten().tolist() == [10.0 * batch + 2 * microbatch + n for n in range(2)]
            own = draws_at(7, batch, 2 + microbatch)
            assert torch.equal(torch.rand(3, generator=draws.local), torch.rand(3, generator=own.local))
            assert torch.equal(torch.rand(3, generator=draws.shared), torch.rand(3, generator=own.shared))


def test_the_saved_state_holds_what_waits():
    run = Run()
    for _ in range(2):
        run.step()
    state = run.algorithm.state_dict()
    assert state == {"made": [[{"x": (2, 0)}], [{"x": (2, 1)}]]}
    run.step()
    assert state["made"][0], "a saved state does not change with the run"
    again = Run()
    for _ in range(2):
        next(again.given)
    again.batch = 1
    again.algorithm.load_state_dict(state)
    assert again.step() == [([], 1), ([], 1)]
    assert again.step() == [([4], 0), ([4], 0)]


@pytest.mark.parametrize(("length", "others"), [(None, 2), (20, 2), (2, 1), (1, 0)])
def test_the_trainers_length_of_an_epoch_is_a_limit_where_it_is_known(length, others):
    run = Run()
    run.batch = 0
    next(run.given)
    state = run.state()
    state.dataloader_len = length and Time(length, "ba")
    run.algorithm.apply(Event.BATCH_START, state, None)
    run.algorithm.apply(Event.BEFORE_FORWARD, state, None)
    assert len(run.method.upcoming) == others


def test_runs_where_it_must():
    algorithm = Run().algorithm
    assert [e for e in Event if algorithm.match(e, None)] == [Event.BATCH_START, Event.BEFORE_FORWARD]
