import time

import pytest
import torch
from torch import nn

from harness.callbacks.compute_meter import ComputeMeter


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, hidden_states):
        return self.layer(hidden_states)


def call(network, grad):
    with torch.set_grad_enabled(grad):
        network(hidden_states=torch.zeros(1, 1, 1, 5, 2))


FORWARD = 2 * 6 * 10  # 10 tokens of 6 weights


@pytest.fixture
def parts():
    generator, teacher = Denoiser(), Denoiser().requires_grad_(False)
    return generator, teacher, ComputeMeter({"generator": generator, "teacher": teacher}, world_size=2)


def test_counts_forwards_and_backwards_inside_batches_only(parts):
    generator, teacher, meter = parts
    call(generator, True)  # before the run
    meter.before_dataloader(None, None)
    call(generator, True)
    call(generator, False)
    call(teacher, True)  # frozen: no backward
    with meter.paused():
        call(generator, False)  # a monitor
    meter.batch_end(None, None)
    call(generator, False)
    assert meter.compute()["denoiser_forwards"] == 2 * 3
    assert meter.compute()["teraflops"] == pytest.approx(2 * FORWARD * (3 + 1 + 1) / 1e12)


def test_seconds_of_the_processor_not_of_waiting(parts):
    meter = parts[2]
    meter.before_dataloader(None, None)
    time.sleep(0.2)
    meter.batch_end(None, None)
    assert meter.batch_seconds >= 0.2
    assert meter.device_seconds < 0.1


def test_goes_on_after_an_interruption(parts):
    generator, _, meter = parts
    meter.before_dataloader(None, None)
    call(generator, True)
    meter.batch_end(None, None)
    meter.device_seconds, meter.wall_seconds = 5.0, 7.0
    other = Denoiser()
    again = ComputeMeter({"generator": other}, world_size=2)
    again.load_state_dict(meter.state_dict())
    again.before_dataloader(None, None)
    call(other, True)
    again.batch_end(None, None)
    assert again.compute()["denoiser_forwards"] == 4
    assert again.flops == 2 * meter.flops
    assert again.device_seconds >= 5.0
    state = again.state_dict()
    assert state["wall_seconds"] >= 7.0
    assert state["peak_memory_mib"] > 50
