from types import SimpleNamespace

import torch
from composer.core import Event
from torch import nn

from harness.algorithms.long_tuning import LongTuning


class Sequence:
    """Counts what is done to it."""

    def __init__(self):
        self.chunks, self.detached, self.device = 0, 0, None

    def detach(self):
        self.detached += 1

    def state_dict(self):
        return {"chunks": self.chunks}

    def load_state_dict(self, state, device):
        self.chunks, self.device = state["chunks"], device


def make_method():
    method = nn.Module()
    method.generator = nn.Linear(1, 1, device="meta")
    method.sequence = None
    return method


def step(algorithm, microbatches=2):
    """One batch, as the Trainer runs it; the sequences that the method was handed."""
    state, handed = SimpleNamespace(), []
    for event in (Event.BATCH_START, *[Event.BEFORE_FORWARD, Event.AFTER_BACKWARD] * microbatches, Event.BATCH_END):
        if algorithm.match(event, state):
            algorithm.apply(event, state, None)
        if event == Event.BEFORE_FORWARD:
            handed.append(algorithm.method.sequence)
            algorithm.method.sequence.chunks += 1
    return handed


def test_each_microbatch_goes_on_with_its_own():
    algorithm = LongTuning(make_method(), Sequence)
    first, second = step(algorithm), step(algorithm)
    assert first[0] is not first[1]
    assert first == second
    assert [sequence.chunks for sequence in first] == [2, 2]


def test_each_is_cut_from_the_graph_once_an_update():
    algorithm = LongTuning(make_method(), Sequence)
    step(algorithm)
    assert [sequence.detached for sequence in step(algorithm)] == [2, 2]


def test_goes_on_from_a_saved_state_where_the_generator_is():
    algorithm = LongTuning(make_method(), Sequence)
    assert algorithm.state_dict() == {"sequences": []}
    step(algorithm)
    step(algorithm)
    state = algorithm.state_dict()
    assert state == {"sequences": [{"chunks": 2}, {"chunks": 2}]}
    again = LongTuning(make_method(), Sequence)
    step(again)
    again.load_state_dict(state)
    assert again.state_dict() == state
    handed = step(again)
    assert [(sequence.chunks, sequence.device) for sequence in handed] == [(3, torch.device("meta"))] * 2
    again.load_state_dict({"sequences": []})
    assert [sequence.chunks for sequence in step(again)] == [1, 1]
