import pytest
import torch
from attrs import evolve
from wan_helpers import SMALL_I2V, small_condition, small_latent, small_wan

from harness.models.condition import Condition
from harness.models.denoiser import condition_for, predict_velocity
from harness.models.kv_cache import KVCache


class Recorder(torch.nn.Module):
    """A test double: remembers its arguments."""

    def forward(self, **arguments):
        self.arguments = arguments
        return arguments["hidden_states"]


def test_only_what_is_used_is_passed():
    model, x, condition = Recorder(), small_latent(4), small_condition()
    assert torch.equal(predict_velocity(model, x, torch.zeros(2), condition), x)
    assert set(model.arguments) == {"hidden_states", "timestep", "encoder_hidden_states", "return_dict"}


def test_everything_arrives():
    model, x, condition, cache = Recorder(), small_latent(2), small_condition(frames=8), KVCache()
    predict_velocity(model, x, torch.zeros(2), condition, cache=cache, write_cache=True, frame_offset=3)
    assert model.arguments["cache"] is cache
    assert model.arguments["write_cache"] is True
    assert model.arguments["frame_offset"] == 3
    assert model.arguments["encoder_hidden_states_image"] is condition.image_tokens
    assert torch.equal(model.arguments["hidden_states"], torch.cat([x, condition.y[:, :, 3:5]], dim=1))
    predict_velocity(
        model, small_latent(8), torch.zeros(2), condition, frames_per_block=3, clean=small_latent(8, seed=5)
    )
    assert model.arguments["frames_per_block"] == 3
    assert torch.equal(model.arguments["clean_hidden_states"][:, 4:], condition.y)


def test_a_tuple_is_unpacked():
    class Tuple(Recorder):
        def forward(self, **arguments):
            return (super().forward(**arguments),)

    x = small_latent(2)
    assert torch.equal(predict_velocity(Tuple(), x, torch.zeros(2), small_condition()), x)


@pytest.mark.parametrize("offset", [3, 4, 700])
def test_after_its_end_y_goes_on_as_its_last_frame(offset):
    y = torch.randn(2, 3, 4, 2, 4)
    model, condition = Recorder(), Condition(text=torch.zeros(2, 4, 8), y=y)
    x = small_latent(3)
    predict_velocity(model, x, torch.zeros(2), condition, frame_offset=offset)
    assert torch.equal(model.arguments["hidden_states"], torch.cat([x, y[:, :, [3, 3, 3]]], dim=1))


def test_positions_come_after_y_and_are_cut_alike():
    model, x = Recorder(), small_latent(2)
    y, positions = torch.full((2, 3, 8, 2, 4), 1.0), torch.full((2, 5, 8, 2, 4), 2.0)
    positions[:, :, 3:5] = 3.0
    condition = Condition(text=torch.zeros(2, 4, 8), y=y, positions=positions)
    predict_velocity(model, x, torch.zeros(2), condition, frame_offset=3)
    joined = model.arguments["hidden_states"]
    assert torch.equal(joined, torch.cat([x, y[:, :, 3:5], positions[:, :, 3:5]], dim=1))
    alone = Condition(text=torch.zeros(2, 4, 8), positions=positions)
    predict_velocity(model, x, torch.zeros(2), alone)
    assert torch.equal(model.arguments["hidden_states"], torch.cat([x, positions[:, :, :2]], dim=1))
    predict_velocity(model, x, torch.zeros(2), alone, frame_offset=7)
    assert torch.equal(model.arguments["hidden_states"], torch.cat([x, positions[:, :, [7, 7]]], dim=1))


def test_a_first_latent_is_no_input_channel():
    model, x = Recorder(), small_latent(2)
    condition = Condition(text=torch.zeros(2, 4, 8), first_latent=torch.zeros(2, 4, 1, 2, 4))
    predict_velocity(model, x, torch.zeros(2), condition)
    assert model.arguments["hidden_states"] is x


def test_a_network_gets_what_it_reads():
    image = small_condition(frames=4)
    whole = evolve(image, first_latent=torch.zeros(2, 4, 1, 2, 4), positions=torch.zeros(2, 5, 4, 2, 4))
    assert condition_for(small_wan(**SMALL_I2V), whole) is whole
    text_only = condition_for(small_wan(), whole)
    assert (text_only.image_tokens, text_only.y) == (None, None)
    assert text_only.text is whole.text  # by which a cache knows the prompt
    assert text_only.first_latent is whole.first_latent
    assert text_only.positions is whole.positions
    for part in ("image_tokens", "y"):
        assert getattr(condition_for(small_wan(), evolve(whole, **{part: None})), part) is None
    without = whole.without_image_inputs()
    assert condition_for(Recorder(), without) is without  # a network without a config, too
