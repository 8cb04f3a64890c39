import pytest
import torch
from recording import Recording, make_batch

from harness.config.schema import AdamWConfig, CausalSFTConfig
from harness.diffusion.schedule import sigma_table, training_weights
from harness.methods.causal_sft import CausalSFT, rows_per_block
from harness.methods.draws import Draws


def make(**settings):
    settings = {"updates": 1, "caption_dropout": 0.0, "optimizer": AdamWConfig(lr=1e-3)} | settings
    method = CausalSFT(Recording(), CausalSFTConfig(**settings), frames_per_block=2)
    method.draws = Draws.at(0, 3)
    return method


def test_frames_share_the_level_of_their_block_and_blocks_do_not():
    rows = rows_per_block(200, 5, 2, Draws.at(0, 0))
    assert rows.shape == (200, 5)
    assert torch.equal(rows[:, 0], rows[:, 1])
    assert torch.equal(rows[:, 2], rows[:, 3])
    assert (rows[:, 1] != rows[:, 2]).float().mean() > 0.95
    assert (rows[:, 3] != rows[:, 4]).float().mean() > 0.95
    assert rows.min() >= 0
    assert rows.max() <= 999


@pytest.mark.parametrize("context", ["teacher_forcing", "diffusion_forcing"])
def test_the_loss_is_the_error_weighted_by_each_frames_level(context):
    method, batch = make(context=context), make_batch()
    outputs = method(batch)
    draws, x0 = Draws.at(0, 3), batch["latent"]
    rows = rows_per_block(4, 5, 2, draws)
    noise = torch.randn(x0.shape, generator=draws.local)
    sigma = sigma_table(5.0)[rows].float()
    x_t = (1 - sigma)[:, None, :, None, None] * x0 + sigma[:, None, :, None, None] * noise
    (call,) = method.generator.calls
    assert torch.allclose(call["x"], x_t, atol=1e-6)
    assert torch.allclose(call["t"], 1000 * sigma)
    error = (method.generator.scale * x_t - (noise - x0)).square().mean(dim=(1, 3, 4))
    weight = training_weights(5.0)[rows].float()
    assert outputs["loss"].item() == pytest.approx((error * weight).mean().item(), rel=1e-5)


def test_teacher_forcing_gives_the_clean_clip_and_diffusion_forcing_does_not():
    batch = make_batch()
    forced, noisy = make(), make(context="diffusion_forcing")
    forced(batch)
    noisy(batch)
    given = forced.generator.calls[0]["given"]
    assert torch.equal(given["clean_hidden_states"], batch["latent"])
    assert given["frames_per_block"] == 2
    assert noisy.generator.calls[0]["given"].keys() == {"frames_per_block", "return_dict"}


def test_captions_are_dropped():
    method, batch = make(caption_dropout=1.0), make_batch()
    method(batch)
    assert torch.equal(method.generator.calls[0]["text"], batch["condition"].unconditional().text)


def test_the_generator_is_the_one_optimizer_group():
    method = make()
    (group,) = method.parameter_groups()
    assert group["name"] == "generator"
    assert list(method.networks()) == ["generator"]


def test_evaluation_gives_the_same_outputs():
    method, batch = make(), make_batch()
    outputs = method(batch)
    assert method.eval_forward(batch, outputs) is outputs
    assert method.get_metrics(is_train=False) == {}
