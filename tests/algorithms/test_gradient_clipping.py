import math
from types import SimpleNamespace

import pytest
import torch
from composer.core import Event, Time
from torch import nn

from harness.algorithms.gradient_clipping import GradientClipping, clip_gradients
from harness.algorithms.updates import UpdateOrder
from harness.errors import HarnessError


def test_joint_norm():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert float(clip_gradients(gradients, 10.0)) == 5.0
    assert gradients[0].tolist() == [3.0, 0.0]
    assert float(clip_gradients(gradients, 1.0)) == 5.0
    assert math.hypot(float(gradients[0][0]), float(gradients[1])) == pytest.approx(1.0)
    assert float(clip_gradients([], 1.0)) == 0.0


@pytest.mark.parametrize(("copies", "norm"), [(1, 10.0), (4, 5.0)])
def test_norm_over_processes_counts_each_copy_once(monkeypatch, copies, norm):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda squares: squares.mul_(4.0))  # four equal processes
    assert float(clip_gradients([torch.tensor([3.0, 4.0])], 100.0, copies=copies)) == norm


def clipping(batch, gradient):
    """One batch of a run whose order is critic, generator, critic, …; both networks have gradients."""
    method = nn.ModuleDict({"generator": nn.Linear(1, 1, bias=False), "critic": nn.Linear(1, 1, bias=False)})
    for network in method.values():
        network.weight.grad = torch.tensor([[gradient]])
    order = UpdateOrder(generator_updates=2, ratio=1, warmup=1)
    algorithm = GradientClipping(method, {"generator": 2.0, "critic": 0.5}, order)
    state = SimpleNamespace(timestamp=SimpleNamespace(batch=Time(batch, "ba")))
    assert algorithm.match(Event.AFTER_TRAIN_BATCH, state)
    algorithm.apply(Event.AFTER_TRAIN_BATCH, state, None)
    return float(method["generator"].weight.grad), float(method["critic"].weight.grad), algorithm.norm


def test_clips_the_network_whose_turn_it_is_by_its_own_norm():
    assert clipping(0, 8.0) == (8.0, 0.5, 8.0)
    assert clipping(1, 8.0) == (2.0, 8.0, 8.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_to_step_on_a_gradient_that_is_not_finite(bad):
    with pytest.raises(HarnessError, match=r"generator is not finite.* generator update 2, batch 3"):
        clipping(3, bad)
