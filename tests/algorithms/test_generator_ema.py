from types import SimpleNamespace

import pytest
import torch
from composer.core import Event, Time
from torch import nn

from harness.algorithms.generator_ema import GeneratorEMA, average
from harness.algorithms.updates import UpdateOrder
from harness.errors import HarnessError


def method():
    torch.manual_seed(0)
    return nn.ModuleDict({"generator": nn.Linear(3, 2), "critic": nn.Linear(3, 2)})


def event(ema, kind, batches):
    state = SimpleNamespace(timestamp=SimpleNamespace(batch=Time(batches, "ba")))
    if ema.match(kind, state):
        ema.apply(kind, state, None)


def train(ema, model, batches, start=0):
    """Every batch adds 1 to the weights of the network whose turn it is."""
    weights = []
    for batch in range(start, batches):
        with torch.no_grad():
            for parameter in model[ema.order.role(batch)].parameters():
                parameter += 1.0
        event(ema, Event.BATCH_END, batch + 1)
        weights.append(model["generator"].weight.clone())
    return weights


def test_average_is_the_formula():
    shadow, weights = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -2.0], dtype=torch.bfloat16)]
    average(shadow, weights, 0.75)
    assert shadow[0].dtype == torch.float32
    assert shadow[0].tolist() == [1.5, 1.0]


def test_follows_generator_updates_only_and_from_the_start_given():
    model = method()
    order = UpdateOrder(generator_updates=4, ratio=2, warmup=1)
    ema = GeneratorEMA(model, decay=0.5, start=2, order=order)
    event(ema, Event.AFTER_LOAD, 0)
    first = ema.shadow["weight"].clone()
    assert torch.equal(first, model["generator"].weight)
    weights = train(ema, model, order.batches)
    w2, w3, w4 = weights[4], weights[7], weights[10]  # after the updates in batches 4, 7 and 10 (c g cc g cc g cc g)
    torch.testing.assert_close(w4, first + 4)
    expected = 0.5 * (0.5 * w2 + 0.5 * w3) + 0.5 * w4  # before the third update it is the weights themselves
    torch.testing.assert_close(ema.shadow["weight"], expected)


def test_applied_puts_the_average_in_and_the_weights_back():
    model = method()
    ema = GeneratorEMA(model, decay=0.9, start=0, order=UpdateOrder(generator_updates=5))
    event(ema, Event.AFTER_LOAD, 0)
    train(ema, model, 3)
    trained = model["generator"].weight.clone()

    def use():
        with ema.applied() as network:
            assert network is model["generator"]
            assert torch.equal(network.weight, ema.shadow["weight"])
            assert not torch.equal(network.weight, trained)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        use()
    assert torch.equal(model["generator"].weight, trained)


def test_state_survives():
    model = method()
    ema = GeneratorEMA(model, decay=0.9, start=0, order=UpdateOrder(generator_updates=5))
    event(ema, Event.AFTER_LOAD, 0)
    train(ema, model, 3)
    again = GeneratorEMA(model, decay=0.9, start=0, order=ema.order)
    again.load_state_dict(ema.state_dict())
    event(again, Event.AFTER_LOAD, 3)  # must not begin anew
    assert torch.equal(again.shadow["weight"], ema.shadow["weight"])
    train(ema, model, 5, start=3)
    assert not torch.equal(again.shadow["weight"], ema.shadow["weight"]), "the two must not share memory"


def test_refuses_another_network():
    ema = GeneratorEMA(method(), decay=0.9, start=0, order=UpdateOrder(generator_updates=5))
    with pytest.raises(HarnessError, match="another network"):
        ema.load_state_dict({"shadow": {"weight": torch.zeros(7)}})


def test_the_saved_average_comes_back_to_the_device_of_the_weights():
    model = method()
    ema = GeneratorEMA(model, decay=0.5, start=0, order=UpdateOrder(generator_updates=5, ratio=1, warmup=0))
    event(ema, Event.AFTER_LOAD, 0)
    saved = ema.state_dict()
    there = GeneratorEMA(model.to("meta"), decay=0.5, start=0, order=ema.order)
    there.load_state_dict(saved)
    assert {weight.device.type for weight in there.shadow.values()} == {"meta"}
