import pytest
import torch
from recording import make_batch

from harness.config.schema import AdamWConfig, SFTConfig
from harness.diffusion.schedule import sigma_table, training_weights
from harness.methods.draws import Draws
from harness.methods.flow_matching import drop_captions, flow_matching_loss, table_levels


def config(**settings):
    return SFTConfig(updates=1, optimizer=AdamWConfig(lr=1.0), **settings)


def test_levels_and_weights_are_rows_of_the_tables():
    rows = torch.tensor([[0, 999], [500, 1]])
    sigma, weight = table_levels(rows, config(shift=3.0))
    assert torch.equal(sigma, sigma_table(3.0)[rows].float())
    assert torch.equal(weight, training_weights(3.0)[rows].float())
    assert torch.equal(table_levels(rows, config(weighting="uniform"))[1], torch.ones(2, 2))


@pytest.mark.parametrize("weight", [torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])])
def test_the_weight_applies_to_each_frame(weight):
    velocity, target = torch.zeros(2, 2, 3, 2, 2), torch.zeros(2, 2, 3, 2, 2)
    target[1, :, 2] = 2.0
    loss, error = flow_matching_loss(velocity, target, weight)
    expected = weight[1] if weight.ndim == 1 else weight[1, 2]
    assert loss.item() == pytest.approx(expected.item() * 4.0 / 6)
    assert error.item() == pytest.approx(4.0 / 6)


def test_the_error_is_for_watching_only():
    velocity = torch.ones(2, 2, 3, 2, 2, requires_grad=True)
    loss, error = flow_matching_loss(velocity, torch.zeros_like(velocity), torch.ones(2))
    assert loss.requires_grad
    assert not error.requires_grad


def test_no_dropout_draws_nothing():
    condition, draws = make_batch()["condition"], Draws.at(0, 0)
    state = draws.local.get_state()
    assert drop_captions(condition, 0.0, draws) is condition
    assert torch.equal(state, draws.local.get_state())
