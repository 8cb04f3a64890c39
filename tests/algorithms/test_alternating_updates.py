from itertools import pairwise

import pytest
import torch
from composer import Trainer
from composer.core import Callback, DataSpec, Event
from composer.models import ComposerModel
from torch import nn

from harness.algorithms.alternating_updates import AlternatingUpdates
from harness.algorithms.updates import UpdateOrder


class TwoNetworks(ComposerModel):
    """Both networks take part in every loss: only the algorithm keeps the resting one from being trained."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 4)
        self.phase = "nobody"

    def forward(self, batch):
        return {"loss": self.critic(self.generator(batch)).square().mean()}

    def loss(self, outputs, batch):
        return outputs["loss"]


class Recorder(Callback):
    """Weights and moments of both networks, and the phase, after every batch."""

    def __init__(self):
        self.seen = []

    def batch_end(self, state, logger):
        moments = state.optimizers[0].state
        self.seen.append(
            (
                state.model.phase,
                {
                    role: [
                        tensor.clone()
                        for parameter in state.model.get_submodule(role).parameters()
                        for tensor in (parameter, *moments.get(parameter, {}).values())
                    ]
                    for role in ("generator", "critic")
                },
            )
        )


@pytest.fixture(scope="module")
def seen():
    model, order, recorder = TwoNetworks(), UpdateOrder(generator_updates=3, ratio=2, warmup=1), Recorder()
    groups = [
        {"name": role, "params": list(model.get_submodule(role).parameters()), "lr": 0.1, "weight_decay": 0.1}
        for role in ("generator", "critic")
    ]
    torch.manual_seed(1)
    data = DataSpec([torch.randn(2, 4) for _ in range(20)], get_num_samples_in_batch=len)
    Trainer(
        model=model,
        train_dataloader=data,
        optimizers=torch.optim.AdamW(groups, fused=True),
        max_duration=f"{order.batches}ba",
        algorithms=[AlternatingUpdates(model, order)],
        callbacks=[recorder],
        progress_bar=False,
        device="cpu",
        device_train_microbatch_size=2,
    ).fit()
    return recorder.seen


def test_phases_follow_the_order(seen):
    assert [phase[0] for phase, _ in seen] == list("cgccgccg")


def test_the_resting_network_does_not_move_in_weights_moments_or_decay(seen):
    for (_, before), (phase, after) in pairwise(seen):
        resting = "critic" if phase == "generator" else "generator"
        assert len(before[resting]) == len(after[resting])
        assert all(torch.equal(a, b) for a, b in zip(before[resting], after[resting]))
        assert not torch.equal(before[phase][0], after[phase][0])


def test_the_step_counter_of_each_network_counts_its_own_updates(seen):
    _, last = seen[-1]
    assert {role: int(tensors[1]) for role, tensors in last.items()} == {"generator": 3, "critic": 5}


def test_tells_ddp_about_unused_parameters():
    algorithm = AlternatingUpdates(TwoNetworks(), UpdateOrder(generator_updates=1))
    assert algorithm.find_unused_parameters
    assert [e for e in Event if algorithm.match(e, None)] == [Event.BATCH_START, Event.AFTER_TRAIN_BATCH]
