import pytest
import torch
from recording import Recording, make_batch

from harness.config.schema import AdamWConfig, SFTConfig
from harness.diffusion.schedule import sigma_table, training_weights
from harness.methods.draws import Draws
from harness.methods.sft import SFT


def make(**settings):
    settings = {"updates": 1, "caption_dropout": 0.0, "optimizer": AdamWConfig(lr=1e-3)} | settings
    method = SFT(Recording(), SFTConfig(**settings))
    method.draws = Draws.at(0, 3)
    return method


def test_the_loss_is_the_weighted_error_of_the_velocity():
    method, batch = make(), make_batch()
    outputs = method(batch)
    draws, x0 = Draws.at(0, 3), batch["latent"]
    rows = torch.randint(0, 1000, (4,), generator=draws.local)
    noise = torch.randn(x0.shape, generator=draws.local)
    sigma = sigma_table(5.0)[rows].float().reshape(-1, 1, 1, 1, 1)
    x_t = (1 - sigma) * x0 + sigma * noise
    (call,) = method.generator.calls
    assert torch.allclose(call["x"], x_t, atol=1e-6)
    assert torch.allclose(call["t"], 1000 * sigma.flatten())
    assert set(call["given"]) == {"return_dict"}
    error = (method.generator.scale * x_t - (noise - x0)).square().mean(dim=(1, 2, 3, 4))
    weight = training_weights(5.0)[rows].float()
    assert outputs["loss"].item() == pytest.approx((error * weight).mean().item(), rel=1e-5)
    assert outputs["metrics"]["velocity_error"].item() == pytest.approx(error.mean().item(), rel=1e-5)
    assert method.loss(outputs, batch) is outputs["loss"]


def test_uniform_weighting_leaves_the_plain_error():
    outputs = make(weighting="uniform")(make_batch())
    assert outputs["loss"].item() == pytest.approx(outputs["metrics"]["velocity_error"].item())


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_captions_are_dropped_as_often_as_asked(probability):
    method, batch = make(caption_dropout=probability), make_batch(400)
    method(batch)
    text = method.generator.calls[0]["text"]
    dropped = (text == batch["condition"].unconditional_text).all(dim=(1, 2))
    kept = (text == batch["condition"].text).all(dim=(1, 2))
    assert torch.equal(dropped, ~kept)
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.08)


def test_all_randomness_is_counted():
    method, batch = make(caption_dropout=0.5), make_batch()
    state = torch.get_rng_state()
    losses = []
    for place in (1, 2, 1):
        method.draws = Draws.at(0, place)
        losses.append(method(batch)["loss"].item())
    assert losses[0] == losses[2] != losses[1]
    assert torch.equal(state, torch.get_rng_state())


def test_the_generator_is_the_one_optimizer_group():
    method = make()
    (group,) = method.parameter_groups()
    assert (group["name"], group["lr"]) == ("generator", 1e-3)
    assert group["params"] == list(method.generator.parameters())
    assert method.networks() == {"generator": method.generator}


def test_evaluation_gives_the_same_outputs():
    method, batch = make(), make_batch()
    outputs = method(batch)
    assert method.eval_forward(batch, outputs) is outputs
    method.draws = Draws.at(0, 3)
    assert torch.equal(method.eval_forward(batch)["loss"], outputs["loss"])
    assert method.get_metrics(is_train=True) == {}
