"""How an image reaches the networks: whole, unchanged, each network as much of it as it reads."""

import pytest
import torch
from attrs import evolve
from image_world import FRAMES, LATENT, MASKED, forget, make_batch, make_dmd, make_network, with_condition

from harness.config.schema import AdamWConfig, CausalSFTConfig, RolloutConfig, SFTConfig
from harness.diffusion.distribution_matching import dmd_gradient
from harness.diffusion.schedule import sigma_table
from harness.methods.causal_sft import CausalSFT, rows_per_block
from harness.methods.draws import Draws
from harness.methods.sft import SFT
from harness.models.denoiser import condition_for
from harness.rollout.few_step import rollout

WAYS = ("channels", "first_latent", "both")
ATTENTION = ("causal", "bidirectional")


def step(method, batch, place=0):
    """One forward pass; the calls of each network."""
    forget(method)
    method.draws = Draws.at(0, place)
    outputs = method(batch)
    return outputs, {role: network.__dict__["calls"] for role, network in method.networks().items()}


def image_of(call):
    """Image tokens and the channels of `y` that a network was called with, and those of the positions."""
    joined = call["hidden_states"]
    tokens = call.get("encoder_hidden_states_image")
    y = joined[:, LATENT : LATENT + MASKED] if tokens is not None else None
    return tokens, y, joined[:, -5:]


@pytest.mark.parametrize("phase", ["generator", "critic"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("way", WAYS)
def test_the_condition_reaches_every_network_bit_for_bit(way, attention, phase):
    method, batch = make_dmd(way, attention, phase), make_batch()
    condition = batch["condition"]
    _, calls = step(method, batch)
    assert calls["generator"]
    assert calls["critic"]
    assert bool(calls["teacher"]) == (phase == "generator")
    for role, found in calls.items():
        reads = role != "generator" or way != "first_latent"
        for call in found:
            tokens, y, positions = image_of(call)
            start = call.get("frame_offset", 0)
            cut = slice(start, start + call["hidden_states"].shape[2])
            times = len(positions) // 2  # guidance asks for both halves
            assert torch.equal(positions, torch.cat([condition.positions[:, :, cut]] * times))
            if not reads:
                assert tokens is None
                assert call["hidden_states"].shape[1] == LATENT + 5
                continue
            assert torch.equal(tokens, torch.cat([condition.image_tokens] * times))
            assert torch.equal(y, torch.cat([condition.y[:, :, cut]] * times))
    for call in calls["critic"]:
        assert call["hidden_states"].shape[2] == FRAMES
        assert torch.equal(call["encoder_hidden_states"], condition.text)
    for call in calls["teacher"]:  # the unconditional half loses the text and keeps the image
        assert torch.equal(
            call["encoder_hidden_states"], torch.cat([condition.text, condition.unconditional_text.expand(2, -1, -1)])
        )


CHANGES = {
    "no tokens": lambda c: {"image_tokens": torch.zeros_like(c.image_tokens)},
    "no y": lambda c: {"y": torch.zeros_like(c.y)},
    "another image": lambda c: {
        "image_tokens": c.image_tokens.flip(0),
        "y": c.y.flip(0),
        "first_latent": c.first_latent.flip(0),
    },
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["channels", "both"])
def test_what_the_image_gives_changes_the_output_of_each_network(way, change):
    method, batch = make_dmd(way), make_batch()
    _, before = step(method, batch)
    _, after = step(method, with_condition(batch, **CHANGES[change](batch["condition"])))
    for role in ("generator", "critic", "teacher"):
        for a, b in zip(before[role], after[role], strict=True):
            if a["output"].isnan().all():
                continue  # a commit pass
            apart = (a["output"] - b["output"]).abs().amax(dim=(1, 2, 3, 4))
            assert (apart > 1e-3 * a["output"].std()).all(), role


@pytest.mark.parametrize("change", ["no tokens", "no y"])
def test_critic_and_teacher_read_what_a_text_generator_does_not(change):
    method, batch = make_dmd("first_latent"), make_batch()
    _, before = step(method, batch)
    _, after = step(method, with_condition(batch, **CHANGES[change](batch["condition"])))
    for role, changes in (("generator", False), ("critic", True), ("teacher", True)):
        for a, b in zip(before[role], after[role], strict=True):
            assert torch.equal(a["output"].nan_to_num(), b["output"].nan_to_num()) is not changes, role


@pytest.mark.parametrize(("attention", "gradient_frames"), [("causal", 21), ("causal", 2), ("bidirectional", 21)])
@pytest.mark.parametrize("way", ["first_latent", "both"])
def test_a_given_first_frame_is_in_the_clip_and_not_in_the_loss(way, attention, gradient_frames, monkeypatch):
    method, batch = make_dmd(way, attention), make_batch()
    method.rollout_config = evolve(method.rollout_config, gradient_frames=gradient_frames)
    start = 3 if gradient_frames == 2 else 1  # where the last block begins, or the first
    seen = {}

    def keep(x, fake, real, *rest):
        seen["x"], seen["gradient"] = x, dmd_gradient(x, fake, real, *rest)
        return seen["gradient"]

    def loss_of(x, grad):
        seen["loss on"], seen["descends"] = x, grad
        return (x * grad).mean()

    monkeypatch.setattr("harness.methods.dmd.dmd_gradient", keep)
    monkeypatch.setattr("harness.methods.dmd.dmd_loss", loss_of)
    renoise = method.renoise

    def noised(x):
        seen["clip"] = x
        return renoise(x)

    monkeypatch.setattr(method, "renoise", noised)
    outputs, calls = step(method, batch)
    assert torch.equal(seen["clip"][:, :, :1], batch["condition"].first_latent)
    assert seen["clip"].shape[2] == FRAMES
    assert torch.equal(seen["loss on"], seen["clip"][:, :, start:])
    assert torch.equal(seen["descends"], seen["gradient"][:, :, start - 1 :])
    assert torch.equal(seen["x"], seen["clip"][:, :, 1:])
    assert calls["teacher"][0]["hidden_states"].shape[2] == FRAMES
    outputs["loss"].backward()
    assert any(p.grad.abs().max() > 0 for p in method.generator.parameters() if p.grad is not None)


def test_the_loss_is_that_of_the_generated_frames_alone():
    """Blocks are normalised from the first generated frame on, and the given one has no part in any mean."""
    for normalize in ("sample", "block", "none"):
        method, batch = make_dmd("both", normalize_gradient=normalize), make_batch()
        outputs, calls = step(method, batch)
        draws = Draws.at(0, 0)
        torch.randint(0, 1, (1,), generator=draws.shared)
        noise = draws.noise_like(batch["latent"])
        config = RolloutConfig(frames_per_block=2, denoising_steps=(1000,), image_conditioning="both")
        x = rollout(method.generator, noise, batch["condition"], config, draws.local)
        x_t, t, _ = renoised(method, x, draws)
        assert torch.allclose(calls["critic"][0]["hidden_states"][:, :LATENT], x_t, atol=1e-5)
        sigma = (t / 1000).reshape(-1, 1, 1, 1, 1)
        fake = x_t - sigma * calls["critic"][0]["output"]
        cond, uncond = (x_t - sigma * half for half in calls["teacher"][0]["output"].chunk(2))
        real = uncond + method.config.cfg_scale * (cond - uncond)
        grad = dmd_gradient(x[:, :, 1:], fake[:, :, 1:], real[:, :, 1:], normalize, 2)
        assert outputs["loss"].item() == pytest.approx(0.5 * grad.double().square().mean().item(), rel=1e-3)
        assert outputs["metrics"]["sample_std"].item() == pytest.approx(x[:, :, 1:].std().item(), rel=1e-4)


def renoised(method, x, draws):
    method.draws = draws
    return method.renoise(x)


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_different_images_is_each_alone(way):
    method, batch = make_dmd(way), make_batch(size=3)
    with torch.no_grad():
        noise = torch.randn(batch["latent"].shape, generator=torch.Generator().manual_seed(2))

        def clip(rows):
            condition = condition_for(method.generator, batch["condition"]).select(rows)
            return rollout(method.generator, noise[rows], condition, method.rollout_config, torch.Generator())

        whole = clip(slice(0, 3))
        for row in range(3):
            assert torch.allclose(whole[row], clip([row])[0], atol=1e-4 * whole.std().item())


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("way", WAYS)
def test_samples_made_ahead_are_those_of_their_turn(way, attention):
    batches = [make_batch(seed=number) for number in range(3)]

    def losses(ahead):
        method, found = make_dmd(way, attention, "critic"), []
        for number, batch in enumerate(batches):
            method.draws = Draws.at(2, number)
            if ahead and number == 0:
                method.upcoming = [
                    (later["latent"], later["condition"], Draws.at(2, n)) for n, later in enumerate(batches) if n > 0
                ]
            found.append(method(batch)["loss"].item())
            method.upcoming = ()
        return found

    assert losses(ahead=True) == pytest.approx(losses(ahead=False), rel=1e-4)


def make_sft(kind, image, **settings):
    optimizer = AdamWConfig(lr=1e-3)
    generator = make_network(1, image=image)
    if kind == "sft":
        method = SFT(generator, SFTConfig(updates=1, optimizer=optimizer, caption_dropout=0.0), first_frame_given=True)
    else:
        config = CausalSFTConfig(updates=1, optimizer=optimizer, caption_dropout=0.0, **settings)
        method = CausalSFT(generator, config, 2, first_frame_given=True)
    method.draws = Draws.at(0, 3)
    return method


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("kind", ["sft", "teacher_forcing", "diffusion_forcing"])
def test_supervised_training_keeps_the_given_frame_clean_and_out_of_the_loss(kind, image):
    method = make_sft(kind, image, **({} if kind == "sft" else {"context": kind}))
    batch = make_batch()
    outputs = method(batch)
    (call,) = method.generator.__dict__["calls"]
    x0, draws = batch["latent"], Draws.at(0, 3)
    if kind == "sft":
        rows = torch.randint(0, 1000, (2,), generator=draws.local)[:, None].expand(-1, FRAMES - 1)
        assert "frames_per_block" not in call
    else:
        rows = rows_per_block(2, FRAMES - 1, 2, draws)
        assert call["frames_per_block"] == (1, 2)
        assert ("clean_hidden_states" in call) == (kind == "teacher_forcing")
    noise = draws.noise_like(x0)
    sigma = torch.cat([torch.zeros(2, 1), sigma_table(5.0)[rows].float()], dim=1)
    assert torch.allclose(call["timestep"], 1000 * sigma)
    level = sigma[:, None, :, None, None]
    x_t = (1 - level) * x0 + level * noise
    assert torch.allclose(call["hidden_states"][:, :LATENT], x_t, atol=1e-6)
    assert torch.equal(call["hidden_states"][:, :LATENT, :1], batch["condition"].first_latent)
    assert (call.get("encoder_hidden_states_image") is not None) == image
    error = (call["output"] - (noise - x0))[:, :, 1:].square().mean()
    assert outputs["metrics"]["velocity_error"].item() == pytest.approx(error.item(), rel=1e-5)


def test_a_generated_first_frame_is_trained_as_in_text_to_video():
    config = SFTConfig(updates=1, optimizer=AdamWConfig(lr=1e-3))
    method = SFT(make_network(1), config)
    method.draws = Draws.at(0, 3)
    method(make_batch())
    (call,) = method.generator.__dict__["calls"]
    assert call["timestep"].shape == (2,)
