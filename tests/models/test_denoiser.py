import pytest
import torch
from wan_helpers import small_condition, small_latent

from harness.models.condition import Condition
from harness.models.denoiser import predict_velocity
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


def test_y_must_cover_the_frames():
    condition = Condition(text=torch.zeros(2, 4, 8), y=torch.zeros(2, 3, 4, 2, 4))
    with pytest.raises(ValueError, match="y covers 4 latent frames, frames 3…5"):
        predict_velocity(Recorder(), small_latent(3), torch.zeros(2), condition, frame_offset=3)
